"""NaN and infinity in a tokenizer: no evaluator gives a number, and the error names the first tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.core.evaluation_sets import ArraySet, ArraySource
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.errors import NumericError, VtpError
from vtp_core.evaluation.evaluator import Evaluator
from vtp_core.evaluation.latents import measure_latents
from vtp_core.evaluation.runner import evaluate
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_knn.config import KnnConfig
from vtp_plugins.evaluate_knn.evaluator import Knn
from vtp_plugins.evaluate_linear_probe.config import LinearProbeConfig
from vtp_plugins.evaluate_linear_probe.evaluator import LinearProbe
from vtp_plugins.evaluate_reconstruction.config import ReconstructionConfig
from vtp_plugins.evaluate_reconstruction.evaluator import Reconstruction
from vtp_plugins.evaluate_retrieval.config import RetrievalConfig
from vtp_plugins.evaluate_retrieval.evaluator import Retrieval
from vtp_plugins.evaluate_zero_shot.config import ZeroShotConfig
from vtp_plugins.evaluate_zero_shot.evaluator import ZeroShot

EVALUATORS: dict[str, Evaluator] = {
    "reconstruction": Reconstruction(ReconstructionConfig()),
    "linear_probe": LinearProbe(LinearProbeConfig()),
    "knn": Knn(KnnConfig()),
    "zero_shot": ZeroShot(ZeroShotConfig()),
    "retrieval": Retrieval(RetrievalConfig()),
}


def labelled(name: str, seed: int) -> ArraySet:
    images = np.random.default_rng(seed).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    texts, labels = tuple(f"caption {i}" for i in range(12)), tuple(i % 2 for i in range(12))
    source: Any = ArraySource(images, texts=texts, labels=labels, classes=("a", "b"))
    return ArraySet(name=name, source=source)


def measured(
    model: Tokenizer, name: str, failures: dict[str, VtpError] | None = None
) -> dict[str, dict[str, object]]:
    sets = labelled("val", 0), labelled("train", 1)
    return evaluate(model, {name: EVALUATORS[name]}, *sets, rows=5, failures=failures)


def fill(weight: torch.Tensor, value: float) -> None:
    with torch.no_grad():
        weight.fill_(value)


WEIGHTS = {"nan": float("nan"), "inf": float("inf")}


@pytest.mark.parametrize("value", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("name", EVALUATORS)
def test_a_weight_that_is_not_finite_is_refused_before_any_pass(
    name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that the evaluator doesn't use; no evaluator is left out instead."""
    model = toy_tokenizer()
    assert model.decoder is not None
    fill(model.decoder.gain, value)
    monkeypatch.setattr(ArraySet, "batches", lambda *_, **__: pytest.fail("read"))
    monkeypatch.setattr(type(EVALUATORS[name]), "begin", lambda *_: pytest.fail("began"))
    failures: dict[str, VtpError] = {}
    expected = "^evaluation: the tokenizer's weight decoder.gain is not finite, so nothing is measured; take"
    with pytest.raises(NumericError, match=expected):
        measured(model, name, failures)
    assert not failures


def test_a_saved_buffer_counts_as_a_weight_and_the_first_of_several_is_named() -> None:
    model = toy_tokenizer()
    model.bottleneck.register_buffer("scale", torch.tensor([1.0, float("nan")]))
    with pytest.raises(NumericError, match=r"weight bottleneck.scale is not finite"):
        measured(model, "knn")
    fill(model.encoder.noise, float("-inf"))
    with pytest.raises(NumericError, match=r"weight encoder.noise and 1 more is not finite"):
        measured(model, "knn")


@pytest.mark.parametrize("name", EVALUATORS)
def test_an_encoder_that_overflows_gives_no_number(name: str) -> None:
    model = toy_tokenizer()
    assert measured(model, name)
    fill(model.encoder.scale, 3e38)
    expected = rf"^evaluator {name}: sample s0: encoder: patch tokens .* \(row 0 of 5\); check the weights"
    with pytest.raises(NumericError, match=expected):
        measured(model, name)


def test_a_decoder_that_overflows_gives_no_reconstruction() -> None:
    model = toy_tokenizer()
    assert model.decoder is not None
    fill(model.decoder.gain, 3e38)
    model.decoder.value_range = (0.0, 1e-6)  # converted to ImageNet's range, the output overflows
    expected = "^evaluator reconstruction: sample s0: decode: the decoder's output is not finite .* check the"
    with pytest.raises(NumericError, match=expected):
        measured(model, "reconstruction")
    assert measured(model, "knn")


@pytest.mark.parametrize("name", ["zero_shot", "retrieval"])
@pytest.mark.parametrize("head", ["embed_text", "embed_image"])
def test_heads_that_overflow_give_no_language_metric(name: str, head: str) -> None:
    model = toy_tokenizer()
    module = model.exports[head]
    module.register_forward_hook(lambda _, __, output: output / 0)
    what = head.removeprefix("embed_")
    with pytest.raises(
        NumericError, match=f"^evaluator {name}: .*{head}: the {what} embedding is not finite"
    ):
        measured(model, name)


def test_the_sample_and_the_row_are_named() -> None:
    """One image whose tokens overflow, in the second batch."""
    model = toy_tokenizer()
    encode = model.features

    def overflow(pixels: torch.Tensor, layers: Any = ()) -> Any:
        found = encode(pixels, layers)
        if len(pixels) == 2:
            found["global"].patches[1, 0, 2, 3] = float("inf")
        return found

    model.features = overflow  # type: ignore[method-assign]
    with pytest.raises(NumericError, match=r"^evaluator knn: sample s11: encoder: .* \(row 1 of 2\)"):
        evaluate(model, {"knn": Knn(KnnConfig())}, labelled("val", 0), labelled("train", 1), rows=10)


def test_latent_statistics_are_not_measured() -> None:
    model = toy_tokenizer()
    fill(model.encoder.scale, float("nan"))
    with pytest.raises(NumericError, match=r"^latent statistics: the latent is not finite"):
        measure_latents(model, labelled("train", 1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@torch.no_grad()
def test_decode_and_postprocess_refuse(value: float) -> None:
    model = toy_tokenizer()
    latent = model.encode(torch.zeros(3, 3, 16, 16)).latent
    pixels = model.decode(latent).sample
    assert len(model.postprocess(pixels)) == 3
    latent[1, 0, 0, 0] = value
    with pytest.raises(NumericError, match=r"^decode: the latent is not finite \(row 1 of 3\)") as caught:
        model.decode(latent)
    assert caught.value.exit_code == 4
    pixels[2, 1, 0, 0] = value
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(NumericError, match=r"^postprocess: the pixels are not finite \(row 2 of 3\)$"):
            model.postprocess(pixels.to(dtype))
