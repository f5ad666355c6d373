"""Evaluator `probe_gen`: the command's numbers on the images of least hash, on any batches and ranks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy
import pytest
import torch
from click.testing import CliRunner
from scipy.linalg import sqrtm

from tests.core.evaluation_sets import ArraySource
from tests.core.run.tiny_run import vtp
from vtp_core.cli.main import main
from vtp_core.data.source import BadSample, Sample
from vtp_core.errors import DataError, NumericError
from vtp_core.evaluation.intervals import score_of
from vtp_core.evaluation.runner import Results, evaluate, why_not
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.evaluation.sets.least_hashes import image_hashes
from vtp_core.features import Latent
from vtp_core.testing import check_evaluator
from vtp_core.testing.ranks import run_processes
from vtp_core.testing.tiny_tokenizer import tiny_tokenizer
from vtp_core.tokenizer import Tokenizer
from vtp_core.training.ranks.world import World
from vtp_plugins.probe_gen import evaluator
from vtp_plugins.probe_gen.config import ProbeGenConfig, ProbeSettings
from vtp_plugins.probe_gen.distance import Meter
from vtp_plugins.probe_gen.evaluator import ProbeGen
from vtp_plugins.probe_gen.images import KeptImages
from vtp_plugins.probe_gen.measure import measure
from vtp_plugins.probe_gen.ranking import GAUSSIAN

SETTINGS = {
    "steps": 3,
    "rows": 8,
    "images": 64,
    "samples": 64,
    "euler_steps": 1,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "warmup": 2,
    "network": "timm:test_resnet",
    "weights": "random",
    "resize": 32,
}
TINY = ProbeGenConfig(**SETTINGS)
INLINE = ", ".join(f"{key} = {json.dumps(value)}" for key, value in SETTINGS.items())


def drawn(count: int = 80, labels: tuple[int, ...] = (0, 1, 2)) -> EvaluationSet:
    draw = numpy.random.default_rng(0)
    images = draw.integers(0, 256, (count, 32, 32, 3), dtype=numpy.uint8)
    source = ArraySource(images, labels=tuple(labels[i % 3] for i in range(count)), classes=("a", "b", "c"))
    return EvaluationSet(name="drawn", source=source)


def measured(
    config: ProbeGenConfig = TINY, *, rows: int = 64, data: EvaluationSet | None = None, **more: object
) -> Results:
    return evaluate(tiny_tokenizer(), {"it": ProbeGen(config)}, None, data or drawn(), rows=rows, **more)


def chosen(data: EvaluationSet, count: int) -> EvaluationSet:
    """The images of least hash in their order, with classes numbered by their first image: by sorting."""
    source = data.source
    samples = [source.read(i, source.fields) for i in range(len(source))]
    pixels = torch.stack([torch.from_numpy(sample.image).permute(2, 0, 1) for sample in samples])
    order = image_hashes([sample.key for sample in samples], pixels).tolist()
    best = [samples[i] for i in sorted(range(len(samples)), key=order.__getitem__)[:count]]
    seen = [*dict.fromkeys(sample.label for sample in best)]
    images = numpy.stack([sample.image for sample in best])
    labels = tuple(seen.index(sample.label) for sample in best)
    return EvaluationSet(name="chosen", source=ArraySource(images, labels=labels, classes=("x", "y", "z")))


@pytest.fixture(scope="module")
def found() -> Results:
    return measured()


def test_the_numbers_are_those_of_the_command_on_the_images_of_least_hash(found: Results) -> None:
    record = measure(tiny_tokenizer(), chosen(drawn(), 64), ProbeSettings(**SETTINGS))
    assert list(found) == ["probe_gen_kernel"]
    entry = found["probe_gen_kernel"]
    assert (entry["value"], entry["error"]) == (record.final.kernel, record.final.kernel_error)
    assert entry["baselines"] == {GAUSSIAN: record.gaussian.kernel}
    assert entry["also"]["reconstructions"] == record.reconstruction.kernel
    assert entry["also"]["training loss"] == record.loss
    assert (entry["also"]["images"], entry["also"]["classes"]) == (64, 3)
    assert entry["verdict"] in ("better", "within noise", "worse") and entry["aspect"] == "generation"
    assert not entry["higher_is_better"]
    assert any("no Fréchet distance" in note for note in entry["notes"])
    assert any("one proxy" in note for note in entry["notes"])


def test_other_batches_and_other_numbers_of_the_classes_change_nothing(found: Results) -> None:
    held_out = EvaluationSet(
        name="val",
        source=ArraySource(numpy.zeros((2, 32, 32, 3), numpy.uint8), labels=(0, 1), classes=("c", "b", "a")),
    )
    model = tiny_tokenizer()
    assert evaluate(model, {"it": ProbeGen(TINY)}, held_out, drawn(), rows=7) == found
    renamed = drawn(labels=(2, 0, 1))
    assert measured(data=renamed)["probe_gen_kernel"]["value"] == found["probe_gen_kernel"]["value"]


def test_the_protocol_says_what_differs_from_the_command(found: Results) -> None:
    protocol = str(found["probe_gen_kernel"]["protocol"])
    assert protocol.startswith("probe-gen-v1 CHANGED steps=3 rows=8 images=64")
    for text in (
        "classes where there are several",
        "those of least hash of key and pixels in this order: at most 64 and 2^30 bytes, seed 0)",
        "; trained on and compared with images of drawn, all 80;",
    ):
        assert text in protocol
    assert " on drawn" not in protocol and ProbeGen(ProbeGenConfig(weights="random")).protocol.startswith(
        "probe-gen-v1 (LightningDiT"
    )
    assert "mean of seeds 4 to 6" in ProbeGen(TINY.model_copy(update={"seed": 4, "seeds": 3})).protocol


def test_several_seeds_have_their_mean_and_its_error(found: Results) -> None:
    both = measured(TINY.model_copy(update={"seeds": 2}))["probe_gen_kernel"]
    values = [both["also"]["seed 0"], both["also"]["seed 1"]]
    assert values[0] == found["probe_gen_kernel"]["value"] != values[1]
    expected = score_of(torch.tensor(values, dtype=torch.float64))
    assert both["value"] == pytest.approx(sum(values) / 2) and both["error"] == expected.error
    assert not any("one proxy" in note for note in both["notes"])


def test_errors_of_frechet_distances_are_the_jackknifes() -> None:
    meter = Meter(TINY, torch.device("cpu"))
    width = meter.features([torch.zeros(1, 3, 32, 32, dtype=torch.uint8)]).shape[1]
    draw = torch.Generator().manual_seed(0)
    count = 2 * width
    real, made, noise = (torch.randn(count, width, generator=draw) * s for s in (1.0, 1.1, 2.0))
    assert meter.has_covariances(real, made) and not meter.has_covariances(real, made[:width])
    found = meter.frechet({"made": made, "noise": noise}, real)

    def distance(rows: torch.Tensor) -> float:
        one, other = (x.double().numpy() for x in (rows, real))
        a, b = (numpy.cov(x, rowvar=False) for x in (one, other))
        gap = ((one.mean(0) - other.mean(0)) ** 2).sum()
        return float(gap + numpy.trace(a + b - 2 * sqrtm(a @ b).real))

    assert found["made"].value == pytest.approx(distance(made), rel=1e-6)
    without = [distance(made[torch.arange(count) % 4 != part]) for part in range(4)]
    assert list(found["made"].without) == pytest.approx(without, rel=1e-6)
    assert found["made"].value == pytest.approx(meter.distance(made, real).frechet)


def test_images_in_memory_are_read_as_they_are_and_classes_numbered_by_their_first_image() -> None:
    pixels = torch.randint(0, 256, (3, 3, 32, 48), generator=torch.Generator().manual_seed(0))
    rows = {
        "image": pixels.to(torch.uint8),
        "order": torch.tensor([3, 5, 2**63 - 1]),
        "label": torch.tensor([7, -1, 7]),
    }
    data = EvaluationSet(name="kept", source=KeptImages.of(rows))
    (batch,) = data.batches((32, 48), 64, fields=frozenset({"image", "label"}))
    assert torch.equal(batch.crops["global"][:, 0], rows["image"]) and batch.label.tolist() == [0, 1, 0]
    alone = KeptImages.of({**rows, "label": torch.full((3,), -1)})
    assert alone.fields == {"image"} and alone.classes == ()


def test_large_images_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TINY.model_copy(update={"images": 5000})
    for most, expected in ((2**30, 5000), (3 * 32 * 32 * 70, 70), (1, 64)):
        monkeypatch.setattr(evaluator, "BYTES", most)
        built = ProbeGen(config)
        built.begin(tiny_tokenizer(), ())
        assert built._kept.most == expected


class Holes(ArraySource):
    """Every other sample can't be read."""

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        if index % 2:
            raise BadSample(f"s{index}", "truncated image")
        return super().read(index, fields)


def spoilt() -> Tokenizer:
    """A tokenizer whose latents are not finite in one row of a batch."""
    model = tiny_tokenizer()

    def spoil(module: object, given: tuple[object, ...], latent: Latent) -> None:
        latent["global"].patches[3] = torch.nan

    model.bottleneck.register_forward_hook(spoil)
    return model


def test_what_can_not_be_measured_is_refused() -> None:
    built = ProbeGen(TINY)
    assert why_not(built, tiny_tokenizer(), None, drawn(9)) == (
        "it needs 64 training images, and drawn has 9"
    )
    assert why_not(built, tiny_tokenizer(), None, None) == "it needs a training set"
    blind = tiny_tokenizer()
    blind.decoder = None
    assert why_not(built, blind, None, drawn()) == "the tokenizer has no decode"
    source = drawn(100).source
    holes = Holes(source.images, labels=source.labels, classes=source.classes)
    with pytest.raises(DataError, match="the training set: 50 images are too few"):
        measured(data=EvaluationSet(name="holes", source=holes, skip_bad=True))
    with pytest.raises(NumericError, match=r"latent.* not finite"):
        evaluate(spoilt(), {"it": built}, None, drawn())


@pytest.mark.slow
def test_keeps_the_rules_of_evaluators() -> None:
    check_evaluator(ProbeGen, TINY, samples=44, tolerance=1e-12)


def on_ranks(world: World) -> dict[str, torch.Tensor]:
    config = TINY.model_copy(update={"images": 64, "samples": 80, "seeds": 2})
    entry = measured(config, rows=5, world=world, data=drawn(83))["probe_gen_kernel"]
    numbers = [entry["value"], entry["error"], *entry["baselines"].values(), *entry["also"].values()]
    text = torch.tensor(list(str(entry["protocol"]).encode()))
    return {"numbers": torch.tensor(numbers, dtype=torch.float64), "protocol": text}


@pytest.mark.slow
@pytest.mark.distributed
def test_ranks_equal_one_process() -> None:
    alone = on_ranks(World())
    for rank in run_processes(2, on_ranks):
        for name, values in alone.items():
            assert torch.equal(rank[name], values), name


@pytest.mark.slow
def test_a_proxy_is_better_than_gaussian_latents_in_both_distances() -> None:
    draw = torch.Generator().manual_seed(0)
    colors = torch.randint(0, 256, (128, 1, 1, 3), generator=draw, dtype=torch.uint8)
    source = ArraySource(colors.expand(-1, 32, 32, -1).contiguous().numpy())
    config = TINY.model_copy(update={
        "steps": 250, "rows": 32, "images": 128, "samples": 256, "euler_steps": 10, "width": 32, "depth": 2,
        "lr": 3e-3, "warmup": 10,
    })  # fmt: skip
    found = measured(config, data=EvaluationSet(name="colors", source=source))
    assert list(found) == ["probe_gen_kernel", "probe_gen_frechet"]
    for entry in found.values():
        assert entry["also"]["reconstructions"] < entry["value"] < entry["baselines"][GAUSSIAN]
        assert entry["error"] > 0 and entry["also"]["classes"] == 0
        assert not any("no Fréchet" in note for note in entry["notes"])
    assert found["probe_gen_frechet"]["verdict"] == "better"


@pytest.mark.slow
def test_a_run_measures_it_and_the_leaderboard_has_its_columns(tmp_path: Path) -> None:
    done = vtp(
        tmp_path, "run.steps=2", "evaluate.statistics_samples=0", "evaluate.limit=70",
        'evaluate.source={ use = "samples", split = "val" }',
        f'evaluators.small={{ use = "probe_gen", {INLINE} }}',
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    own = json.loads((tmp_path / "run" / "eval.json").read_text())["probe_gen_kernel"]
    out, page = tmp_path / "board.json", tmp_path / "board.html"
    tokenizers = (tmp_path / "run", tmp_path / "run" / "checkpoints" / "step-00000002")
    arguments = [*map(str, tokenizers), "--leaderboard", "-o", str(out), "--html", str(page)]
    result = CliRunner().invoke(main, ["eval", *arguments])
    assert result.exit_code == 0, result.output
    rows = json.loads(out.read_text())["tokenizers"]
    assert [row["results"]["probe_gen_kernel"]["value"] for row in rows] == [own["value"]] * 2
    assert "Kernel distance of a small generator" in result.stdout and "small generator" in page.read_text()
    assert "protocol: probe-gen-v1 CHANGED steps=3" in result.stdout
    assert math.isfinite(own["value"])
    wrong = CliRunner().invoke(
        main, ["eval", str(tokenizers[0]), "--evaluator", "probe_gen", "--source", "samples"]
    )
    assert wrong.exit_code == 2 and "evaluator probe_gen: it needs a training set" in wrong.stderr
