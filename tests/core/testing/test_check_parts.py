"""Every first-party encoder, bottleneck, decoder, source and evaluator passes its check; mistakes do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vtp_core.bottleneck import Bottleneck
from vtp_core.data.source import Sample
from vtp_core.errors import UsageError
from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.protocol import Metric, Score
from vtp_core.features import Features, Latent, Tally, Tokens
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.testing import (
    TINY_DIMS,
    ConformanceError,
    ShapesSource,
    TinyNetworks,
    check_bottleneck,
    check_decoder,
    check_encoder,
    check_evaluator,
    check_source,
)
from vtp_core.testing.networks import TinyBottleneck, TinyDecoder, TinyEncoder
from vtp_core.tokenizer import Tokenizer

PLUGINS: Plugins = load_plugins()
ENCODERS = {
    "vit": {"patch": 8, "width": 32, "depth": 2, "heads": 2, "drop_path": 0.0},
    "cnn": {"channels": 32, "multipliers": (1, 1, 2), "attention": (4,), "residual_blocks": 1, "width": 8},
}
BOTTLENECKS = {
    "linear": {"channels": 4},
    "kl": {"channels": 4},
    "vq": {"channels": 4, "calibration_rows": 4},
    "fusion": {"calibration_rows": 4},
    "pca_vq": {"calibration_rows": 4, "sample_rows": 4, "sample_tokens": 3},
}
DECODERS = {
    "vit": {"width": 32, "depth": 1, "heads": 2},
    "cnn": {"channels": 32, "multipliers": (1, 1, 1, 2), "attention": ()},
}
RANDOM = {"network": "timm:test_efficientnet", "weights": "random", "resize": 32, "allow_fewer": True}
EVALUATORS: dict[str, dict[str, object]] = {
    "reconstruction": {},
    "latent_statistics": {},
    "knn": {},
    "linear_probe": {},
    "zero_shot": {},
    "retrieval": {},
    "frechet": {**RANDOM, "metrics": ("frechet", "kernel")},
}
CHECKED_ELSEWHERE = {"branches", "codebook", "diffusability", "dino_probe", "frechet_generated", "probe_gen"}
"""Evaluators that need another tokenizer or other sets; tests/plugins/evaluate and probe_gen check them."""


def table(kind: str, name: str, **keys: object) -> object:
    config = PLUGINS.find(kind, name).load_config()
    known = {key: value for key, value in keys.items() if key in config.model_fields}
    return config(use=name, **known)


def names(kind: str) -> set[str]:
    return {component.name for component in PLUGINS.components(kind)}


def test_no_first_party_component_is_left_out() -> None:
    for kind, here in {"encoder": ENCODERS, "bottleneck": BOTTLENECKS, "decoder": DECODERS}.items():
        assert here.keys() <= names(kind)
        for name in names(kind) - here.keys():  # networks of other projects, in their own tests
            own = Path(f"tests/plugins/{name}").glob("test_*.py")
            assert any(f" check_{kind}(" in path.read_text() for path in own), f"{kind} {name}"
    assert names("evaluator") == EVALUATORS.keys() | CHECKED_ELSEWHERE
    for source in names("source"):  # they need files, which their own tests make
        own = Path(f"tests/plugins/{source}").glob("test_*.py")
        assert any(" check_source(" in path.read_text() for path in own), source


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name: str) -> None:
    check_encoder(PLUGINS.find("encoder", name).load_target(), table("encoder", name, **ENCODERS[name]))


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_bottlenecks(name: str) -> None:
    target = PLUGINS.find("bottleneck", name).load_target()
    check_bottleneck(target, table("bottleneck", name, **BOTTLENECKS[name]))


@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name: str) -> None:
    check_decoder(PLUGINS.find("decoder", name).load_target(), table("decoder", name, **DECODERS[name]))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "frechet")) for name in EVALUATORS]
)
def test_evaluators(name: str) -> None:
    table_of = table("evaluator", name, **EVALUATORS[name])
    check_evaluator(PLUGINS.find("evaluator", name).load_target(), table_of)


def test_tiny_networks_and_shapes() -> None:
    check_encoder(lambda _: TinyEncoder(), None)
    check_bottleneck(lambda _, dims: TinyBottleneck(dims), None)
    check_decoder(lambda _, dims: TinyDecoder(dims), None)
    check_source(ShapesSource(9, size=16))


class Flawed(TinyEncoder):
    flaw = ""

    def __init__(self, flaw: str) -> None:
        super().__init__()
        self.flaw = flaw
        self.register_buffer("seen", torch.zeros(1))
        if flaw == "a parameter without use":
            self.unused = nn.Parameter(torch.zeros(2))
        if flaw == "a scalar parameter":
            self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images, masks, *, layers=(), drop_path=0.0):  # type: ignore[no-untyped-def]
        found: list[Tokens] = super().forward(images, masks, layers=layers)
        first = found[0]
        if self.flaw == "state in forward":
            self.seen += 1
        if self.flaw == "a class token that is not there":
            first = Tokens(**{**vars(first), "cls": None})
        if self.flaw == "rows that mix":
            first = Tokens(**{**vars(first), "patches": first.patches + first.patches.mean(0, keepdim=True)})
        if self.flaw == "a generator of its own":
            first = Tokens(**{**vars(first), "patches": first.patches + torch.rand(1, generator=self.own())})
        if self.flaw == "a transposed grid":
            first = Tokens(**{**vars(first), "grid": (first.grid[0] + 1, first.grid[1])})
        if self.flaw == "taps that were not asked for":
            first = Tokens(**{**vars(first), "layers": {}})
        if self.flaw == "a mask without effect" and masks[0] is not None:
            first = super().forward(images, [None] * len(images), layers=layers)[0]
        return [first, *found[1:]]

    def own(self) -> torch.Generator:
        self.count = getattr(self, "count", 0) + 1
        return torch.Generator().manual_seed(self.count)


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("a parameter without use", "'unused' gets no gradient"),
        ("a scalar parameter", "has no dimension"),
        ("a class token that is not there", "has_cls and Tokens.cls differ"),
        ("state in forward", "forward changed 'seen'"),
        ("rows that mix", "depends on other rows"),
        ("a generator of its own", "differs under one seed"),
        ("a transposed grid", "grid"),
        ("taps that were not asked for", "taps"),
        ("a mask without effect", "pixels below the mask have an effect"),
    ],
)
def test_a_flawed_encoder_is_refused(flaw: str, message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_encoder(Flawed, flaw)


class Codes(Bottleneck):
    """A sound discrete bottleneck with a moving codebook, and its flaws."""

    channels, codebook_sizes, sample_rows = 4, (5,), 4

    def __init__(self, flaw: str, dims: object) -> None:
        super().__init__()
        self.flaw = flaw
        self.project = nn.Linear(TINY_DIMS.width, 4)
        self.register_buffer("codebook", torch.randn(5, 4))
        self.next = 0
        self.calibration_rows = 6 if flaw == "a calibration by means" else 0

    def forward(self, features: Features) -> Latent:
        crops, codes, tally = {}, {}, None
        for name, tokens in features.crops.items():
            y = self.project(tokens.patches)
            if self.flaw == "noise by rank" and self.training:
                y = y + torch.randn_like(y)
            index = torch.cdist(y.detach().float(), self.codebook[None, None]).argmin(-1)
            picked = self.codebook[index]
            one = torch.nn.functional.one_hot(index, 5).flatten(0, 2).float()
            sums = one.T @ y.detach().flatten(0, 2).nan_to_num()
            if name == "global":
                tally = Tally(sums={"n": one.sum(0), "sum": sums / (len(y) if self.flaw == "means" else 1)})
                if self.flaw == "features that are not finite":
                    tally = Tally(sums={"n": one.sum(0), "sum": one.T @ y.detach().flatten(0, 2)})
                if self.flaw == "a plan for the next step in after_step" and not self.next % 10:
                    tally = replace(tally, rows={"x": y.detach()})
            crops[name] = Tokens(patches=y + (picked - y).detach(), grid=tokens.grid)
            codes[name] = index.unflatten(2, tokens.grid).unsqueeze(2)
            if self.flaw == "no codes of local crops" and name == "local":
                crops.pop(name)
        if self.flaw == "a codebook that moves in forward":
            self.codebook += 0.1
        if self.flaw == "no gradient":
            crops = {n: Tokens(patches=t.patches.detach(), grid=t.grid) for n, t in crops.items()}
        return Latent(crops=crops, codes=codes, tally=tally)

    def decode_codes(self, codes: Tensor) -> Tensor:
        picked = self.codebook[codes[:, 0]].movedim(-1, 1)
        return picked.flip(1) if self.flaw == "another order of channels" else picked

    def observe(self, features: Features) -> Tally:
        return Tally(sums={"mean": features.patches.mean((0, 1, 2))})

    def calibrate(self, tally: Tally) -> None:
        pass

    def after_step(self, tally: Tally, index: int) -> None:
        mean = tally.sums["sum"] / tally.sums["n"].clamp_min(1)[:, None]
        self.codebook.lerp_(mean, 0.1)
        if self.flaw == "a plan for the next step in after_step" and not index % 10:
            assert len(tally.rows["x"])
        self.next = index + 1


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("noise by rank", "draw noise with vtp.row_randn"),
        ("means", "sums over rows, not means"),
        ("a calibration by means", "observe in two chunks"),
        ("features that are not finite", "on a feature that is not finite"),
        ("no codes of local crops", "latent of"),
        ("a codebook that moves in forward", "forward changed 'codebook'"),
        ("no gradient", "gets no gradient|does not require grad"),
        ("a plan for the next step in after_step", "where earlier steps were skipped .KeyError: 'x'."),
        ("another order of channels", "is not the latent of those codes"),
    ],
)
def test_a_flawed_bottleneck_is_refused(flaw: str, message: str) -> None:
    check_bottleneck(Codes, "")
    with pytest.raises((ConformanceError, RuntimeError), match=message):
        check_bottleneck(Codes, flaw)


class FlawedDecoder(TinyDecoder):
    def __init__(self, flaw: str, dims: object) -> None:
        super().__init__()
        self.flaw = flaw
        if flaw == "a range that is none":
            self.value_range = (1.0, -1.0)  # type: ignore[assignment]

    def forward(self, z: Tensor) -> Tensor:
        image = super().forward(z)
        if self.flaw == "square maps only":
            image = image[..., : image.shape[-2], : image.shape[-2]].transpose(-1, -2)
        if self.flaw == "rows that mix":
            image = image - image.mean(0, keepdim=True)
        return image

    def last_layer(self) -> nn.Module:
        return nn.Conv2d(1, 1, 1) if self.flaw == "a last layer elsewhere" else self.project


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("a range that is none", "value_range"),
        ("square maps only", "expected"),
        ("rows that mix", "depends on other rows"),
        ("a last layer elsewhere", "no module of the decoder"),
    ],
)
def test_a_flawed_decoder_is_refused(flaw: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_decoder(FlawedDecoder, flaw)


class FlawedSource(ShapesSource):
    def __init__(self, flaw: str) -> None:
        super().__init__(9, size=16)
        self.flaw, self.count = flaw, 0

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        sample = super().read(index, fields)
        self.count += 1
        changes: dict[str, dict[str, object]] = {
            "one key": {"key": "same"},
            "a field less": {"text": None},
            "a label outside": {"label": 99},
            "an image in floats": {"image": None if sample.image is None else sample.image / 255},
            "state": {"text": f"caption {self.count}"},
        }
        return Sample(**{**vars(sample), **changes[self.flaw]})


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("one key", "two samples have one key"),
        ("a field less", "asked for 'text'"),
        ("a label outside", "label 99 of"),
        ("an image in floats", "uint8"),
        ("state", "differs"),
    ],
)
def test_a_flawed_source_is_refused(flaw: str, message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_source(FlawedSource(flaw))


def test_a_flawed_evaluator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    knn: type[Evaluator] = PLUGINS.find("evaluator", "knn").load_target()
    config = table("evaluator", "knn")
    monkeypatch.setattr(knn, "metrics", {})
    with pytest.raises(ConformanceError, match="is not declared"):
        check_evaluator(knn, config)
    monkeypatch.setattr(knn, "metrics", {"knn": Metric(title="in percent", low=2, high=100)})
    with pytest.raises(ConformanceError, match=r"metric 'knn' is .*, beyond its range of 2 to 100"):
        check_evaluator(knn, config)
    monkeypatch.undo()
    with pytest.raises(ConformanceError, match="measured again"):
        check_evaluator(lambda _: Counts(config), None)


class Counts(Evaluator):
    """Counts images, and forgets to begin again."""

    metrics = {"count": Metric(title="images")}
    protocol = "count-v1"
    seen = 0

    def update(self, seen: Observation) -> None:
        self.seen += len(seen.batch)

    def state(self) -> Tally:
        return Tally(sums={"n": torch.tensor(float(self.seen))})

    def compute(self, state: Tally) -> dict[str, Score]:
        return {"count": Score(value=state.sums["n"].item())}


class Flawful(Evaluator):
    """The mean of the first feature, with one flaw."""

    metrics = {"mean": Metric(title="mean")}
    protocol = "mean-v1"
    flaw = ""

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        self.first: list[Tensor] = []
        self.total = torch.zeros(2, dtype=torch.float32 if self.flaw == "narrow sums" else torch.float64)

    def update(self, seen: Observation) -> None:
        if self.flaw == "NaN":
            features = seen.model.features(seen.batch.image)
            values = features.patches.nan_to_num(0.0).mean((1, 2, 3))
        else:
            values = seen.features.patches.mean((1, 2, 3))
        self.first.append(values[:1].double())
        self.total += torch.stack([values.double().sum(), torch.tensor(float(len(values)))])

    def state(self) -> Tally:
        first = torch.cat([torch.zeros(0, dtype=torch.float64), *self.first])
        return Tally(sums={"total": self.total}, rows={"first": first})

    def compute(self, state: Tally) -> dict[str, Score]:
        total, count = state.sums["total"].tolist()
        if self.flaw == "error by batches":
            return {"mean": Score(value=total / count, error=float(state.rows["first"].mean()))}
        first = float(state.rows["first"][0])
        return {"mean": Score(value=first if self.flaw == "order" else total / count)}


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("", ""),
        ("order", "one by one in the opposite order, else"),
        ("error by batches", r"mean\.error is .* in batches of 7"),
        ("narrow sums", "the sum 'total' of its state is torch.float32"),
        ("NaN", "with features that are NaN"),
    ],
)
def test_flaws_of_evaluators_are_found(flaw: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flawful, "flaw", flaw)
    config = table("evaluator", "knn")
    if not flaw:
        check_evaluator(Flawful, config, samples=8)
        return
    with pytest.raises(ConformanceError, match=message):
        check_evaluator(Flawful, config, samples=8)


def test_taps_that_an_encoder_lacks_are_named() -> None:
    encoder = TinyNetworks().encoder
    encoder.check_layers((0, 1), "it")
    with pytest.raises(UsageError, match=r"it taps block 2 of the encoder, which has 2: blocks 0 \.\. 1"):
        encoder.check_layers((2,), "it")
