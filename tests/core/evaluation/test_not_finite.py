"""NaN and infinity in a tokenizer: no evaluator gives a number, and the error names the first tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.core.evaluation_sets import ArraySet, ArraySource
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.errors import NumericError
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

EVALUATORS = {
    "reconstruction": Reconstruction(ReconstructionConfig()),
    "linear_probe": LinearProbe(LinearProbeConfig()),
    "knn": Knn(KnnConfig()),
    "zero_shot": ZeroShot(ZeroShotConfig()),
    "retrieval": Retrieval(RetrievalConfig()),
}
IMAGE_SIDE = ("reconstruction", "linear_probe", "knn", "zero_shot", "retrieval")


def labelled(name: str, seed: int) -> ArraySet:
    images = np.random.default_rng(seed).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    texts, labels = tuple(f"caption {i}" for i in range(12)), tuple(i % 2 for i in range(12))
    source: Any = ArraySource(images, texts=texts, labels=labels, classes=("a", "b"))
    return ArraySet(name=name, source=source)


def measured(model: Tokenizer, name: str) -> dict[str, dict[str, object]]:
    evaluator: Evaluator = EVALUATORS[name]
    return evaluate(model, {name: evaluator}, labelled("val", 0), labelled("train", 1), rows=5)


def fill(weight: torch.Tensor, value: float) -> None:
    with torch.no_grad():
        weight.fill_(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", IMAGE_SIDE)
def test_an_encoder_that_is_not_finite_gives_no_number(name: str, value: float) -> None:
    model = toy_tokenizer()
    assert measured(model, name)
    fill(model.encoder.scale, value)
    expected = rf"^evaluator {name}: sample s0: encoder: patch tokens .* \(row 0 of 5\); its weight scale"
    with pytest.raises(NumericError, match=expected):
        measured(model, name)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_decoder_that_is_not_finite_gives_no_reconstruction(value: float) -> None:
    model = toy_tokenizer()
    assert model.decoder is not None
    fill(model.decoder.gain, value)
    expected = (
        r"^evaluator reconstruction: sample s0: decode: the decoder's output is not finite .* weight gain "
    )
    with pytest.raises(NumericError, match=expected):
        measured(model, "reconstruction")
    assert measured(model, "knn")


@pytest.mark.parametrize("name", ["zero_shot", "retrieval"])
@pytest.mark.parametrize("head", ["embed_text", "embed_image"])
def test_heads_that_are_not_finite_give_no_language_metric(name: str, head: str) -> None:
    model = toy_tokenizer()
    for weight in model.exports[head].parameters():
        fill(weight, float("nan"))
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
