"""Named protocols: what they fix, what departs from them is refused or marked, and columns stay apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from tests.core.evaluation_sets import ArraySource, drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.config import ComponentConfig
from vtp_core.data.completeness import Lost
from vtp_core.data.crops.geometry import shorter_side_crop
from vtp_core.errors import UsageError
from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.named_protocol import NamedProtocol, Preparation
from vtp_core.evaluation.protocol import Metric, Score
from vtp_core.evaluation.runner import evaluate
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.features import Tally
from vtp_core.pixels import to_uint8
from vtp_core.testing.tiny_tokenizer import tiny_tokenizer


def named(images: int | None = 8, size: int = 16, **preparation: str) -> NamedProtocol:
    return NamedProtocol(
        name="drawn-v1",
        about="Drawn images.",
        image_size=size,
        images=images,
        preparation=Preparation(**preparation),  # type: ignore[arg-type]
        reference="the images themselves",
        source="a test",
        conditions=("good weather",),
        unmeasured=("the tide",),
        unknown=("rounding",),
    )


class Means(Evaluator):
    """Sums of inputs and of reconstructions."""

    requires = frozenset({"encode", "decode"})
    protocol = "means-v1"
    metrics = {"mean": Metric(title="Mean")}

    def __init__(self, follows: NamedProtocol | None = None, forced: bool = False) -> None:
        super().__init__(ComponentConfig(use="means"))
        self.follows, self.forced = follows, forced

    def begin(self, model, classes) -> None:  # type: ignore[no-untyped-def]
        self.sums = torch.zeros(2, dtype=torch.float64)
        self.types: set[torch.dtype] = set()

    def update(self, seen: Observation) -> None:
        self.types.add(seen.encoded.latent.dtype)
        self.sums += torch.stack([seen.image.double().sum(), seen.reconstruction.double().sum()])

    def state(self) -> Tally:
        return Tally(sums={"sums": self.sums})

    def compute(self, state: Tally) -> Mapping[str, Score]:
        image, output = state.sums["sums"].tolist()
        return {"mean": Score(value=output, also={"image": image})}


def test_numbers_of_two_protocols_have_columns_of_their_own() -> None:
    results = evaluate(toy_tokenizer(), {"a": Means(), "b": Means(named())}, drawn_set("val", 8, 0))
    assert list(results) == ["mean", "mean@drawn-v1"]
    assert results["mean"]["protocol"] == "means-v1; centre-crop-v1 16 px; on val, all 8; student weights"
    entry = results["mean@drawn-v1"]
    assert str(entry["protocol"]).startswith("drawn-v1: means-v1; centre-crop-v1 16 px; on val, all 8")
    assert entry["title"] == "Mean (drawn-v1)"
    assert entry["notes"] == [
        "drawn-v1 also requires good weather, which is not checked",
        "drawn-v1 also has the tide, which is not measured",
        "drawn-v1: not known of the published numbers: rounding; ours are used",
    ]


@pytest.mark.parametrize("count", [7, 9])
def test_another_number_of_images_is_refused_or_marked(count: int) -> None:
    held_out = drawn_set("val", count, 0)
    with pytest.raises(UsageError, match=f"drawn-v1 is measured on 8 images, and val has {count}; force"):
        evaluate(toy_tokenizer(), {"a": Means(named())}, held_out)
    (metric, entry), *_ = evaluate(toy_tokenizer(), {"a": Means(named(), forced=True)}, held_out).items()
    assert metric == f"mean@drawn-v1-PARTIAL-{count}-of-8"
    assert str(entry["protocol"]).startswith(f"drawn-v1-PARTIAL-{count}-of-8: means-v1")


@dataclass(frozen=True)
class Torn(ArraySource):
    """A source with a part that can't be read."""

    def lost(self) -> Lost:
        return Lost(parts=("images-0001.tar: cut",))


def test_a_protocol_of_whole_sets_of_any_size_marks_parts_of_them() -> None:
    whole, part = drawn_set("val", 9, 0), replace(drawn_set("val", 9, 0), limit=5)
    assert list(evaluate(toy_tokenizer(), {"a": Means(named(None))}, whole)) == ["mean@drawn-v1"]
    with pytest.raises(UsageError, match="drawn-v1 is measured on whole sets, and 5 of the 9 images of val"):
        evaluate(toy_tokenizer(), {"a": Means(named(None))}, part)
    forced = evaluate(toy_tokenizer(), {"a": Means(named(None), forced=True)}, part)
    assert list(forced) == ["mean@drawn-v1-PARTIAL-5-of-9"]
    torn = replace(whole, source=Torn(images=whole.source.images))  # type: ignore[attr-defined]
    assert list(evaluate(toy_tokenizer(), {"a": Means(named(None))}, torn)) == [
        "mean@drawn-v1-WITHOUT-1-LOST-PARTS"
    ]


def test_another_size_of_images_is_always_refused() -> None:
    with pytest.raises(UsageError, match="drawn-v1 is measured at 32 px, and the tokenizer has 16 px"):
        evaluate(toy_tokenizer(), {"a": Means(named(size=32), forced=True)}, drawn_set("val", 8, 0))


def test_crops_are_read_in_passes_of_their_own() -> None:
    rng = numpy.random.default_rng(0)
    images = rng.integers(0, 256, (8, 40, 56, 3), dtype=numpy.uint8)
    held_out = EvaluationSet(name="val", source=ArraySource(images=images))
    both = {"adm": Means(named()), "side": Means(named(crop="shorter_side"))}
    results = evaluate(toy_tokenizer(), both, held_out, rows=3)
    other = results["side.mean@drawn-v1"]
    assert "; shorter-side-crop-v1 16 px;" in str(other["protocol"])
    resize = Compose([Resize(16, InterpolationMode.BICUBIC, antialias=True), CenterCrop(16)])
    expected = sum(float(numpy.asarray(resize(Image.fromarray(x)), dtype=float).sum()) for x in images)
    assert other["also"]["image"] == pytest.approx(expected, rel=1e-4)  # type: ignore[index]
    assert results["mean@drawn-v1"]["also"]["image"] != other["also"]["image"]  # type: ignore[index]


@pytest.mark.parametrize("shape", [(40, 56), (57, 31), (16, 16), (9, 12)])
def test_the_crop_by_the_shorter_side_is_torchvisions(shape: tuple[int, int]) -> None:
    image = numpy.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=numpy.uint8)
    resize = Compose([Resize(16, InterpolationMode.BICUBIC, antialias=True), CenterCrop(16)])
    expected = torch.from_numpy(numpy.array(resize(Image.fromarray(image)))).permute(2, 0, 1)
    found = shorter_side_crop(image, 16)
    assert found.shape == expected.shape and (found.int() - expected.int()).abs().max() <= 1


def test_pixels_are_truncated_and_encoded_in_lower_precision_where_a_protocol_says_so() -> None:
    held_out = drawn_set("val", 8, 0)
    model = toy_tokenizer()
    with torch.no_grad():
        model.encoder.scale.fill_(0.8123)
    (batch,) = held_out.batches(16, 8)
    decoded = model.decode(model.encode(batch.to(model.device).image).latent).sample.detach()
    cut = Means(named(rounding="truncate"))
    (entry,) = evaluate(model, {"a": cut}, held_out).values()
    assert entry["value"] == to_uint8(decoded, "imagenet", truncate=True).double().sum()
    assert entry["value"] < to_uint8(decoded, "imagenet").double().sum()
    assert "8 bit by clamp and truncation" in str(entry["protocol"])
    lower, own = Means(named(encode="bfloat16", size=32)), Means()
    both = evaluate(tiny_tokenizer(), {"lower": lower, "own": own}, drawn_set("val", 8, 0, size=32))
    assert lower.types == {torch.bfloat16} and own.types == {torch.float32}
    assert ", encoder in bfloat16 32 px;" in str(both["mean@drawn-v1"]["protocol"])
    assert both["mean"]["value"] == pytest.approx(both["mean@drawn-v1"]["value"], rel=0.01)


class Fitted(Means):
    """Reads a training set too."""

    uses_train = True

    def update(self, seen: Observation) -> None:
        if seen.split == "held_out":
            super().update(seen)


def test_another_number_of_training_images_is_refused_or_marked() -> None:
    protocol = replace(named(), train_images=10)
    held_out, train = drawn_set("val", 8, 0), drawn_set("train", 12, 1)
    with pytest.raises(UsageError, match="drawn-v1 is fitted on 10 images, and train has 12; force"):
        evaluate(toy_tokenizer(), {"a": Fitted(protocol)}, held_out, train)
    results = evaluate(toy_tokenizer(), {"a": Fitted(protocol, forced=True)}, held_out, train)
    assert list(results) == ["mean@drawn-v1-FITTED-ON-12-of-10"]
    assert list(evaluate(toy_tokenizer(), {"a": Fitted(named())}, held_out, train)) == ["mean@drawn-v1"]
