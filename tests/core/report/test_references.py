"""References: JPEG files of a size, and other tokenizers, on the same images."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.core.evaluation_sets import drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.evaluation.evaluator import Observation
from vtp_core.report.references import JpegReference, TokenizerReference, jpeg_within
from vtp_core.report.survey import survey


def files(image: np.ndarray) -> list[bytes]:
    """Every JPEG that the search can choose from."""
    found = []
    for sampling in (0, 2):
        for quality in range(1, 101):
            data = io.BytesIO()
            Image.fromarray(image).save(data, "JPEG", quality=quality, subsampling=sampling, optimize=True)
            found.append(data.getvalue())
    return found


def error(image: np.ndarray, data: bytes) -> float:
    with Image.open(io.BytesIO(data)) as opened:
        return float(np.square(np.asarray(opened.convert("RGB")).astype(float) - image).mean())


@given(seed=st.integers(0, 1000), limit=st.integers(700, 4000))
def test_no_jpeg_of_the_size_is_much_better(seed: int, limit: int) -> None:
    random = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, 32)[:, None, None] + random.normal(0, seed % 40, (32, 32, 3))
    image = np.clip(ramp, 0, 255).astype(np.uint8)
    fitting = [data for data in files(image) if len(data) <= limit]
    found = jpeg_within(image, limit)
    assert (found is None) == (not fitting)
    if found is not None:
        decoded, size = found
        assert size <= limit and decoded.shape == image.shape
        best = min(error(image, data) for data in fitting)
        # Bisection takes size for a rising function of quality, which it is but for single bytes.
        assert float(np.square(decoded.astype(float) - image).mean()) <= best * 1.1 + 0.1


def test_an_image_that_no_jpeg_holds_is_left_out() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert jpeg_within(noise, 100) is None
    pool = survey(toy_tokenizer(), drawn_set("val", 6, 0), [JpegReference(100)], rows=4)
    assert pool.references["JPEG"] == [None] * 6 and pool.columns() == []


def test_references_are_measured_on_the_same_images() -> None:
    model, other = toy_tokenizer(), toy_tokenizer()
    with torch.no_grad():
        model.encoder.scale.fill_(0.5)
    data = drawn_set("val", 7, 1)
    pool = survey(model, data, [TokenizerReference("other", other), JpegReference(3000)], rows=3)
    alone = survey(other, data, rows=7)
    by_title = {column["title"]: column for column in pool.columns()}
    assert by_title["other"]["psnr"] == pytest.approx(np.mean(alone.psnr))
    assert by_title["other"]["bytes"] == 48 * 4 * 4 * 2
    assert by_title["JPEG"]["bytes"] <= 3000 and by_title["JPEG"]["psnr"] > np.mean(pool.psnr)


def test_a_tokenizer_with_another_patch_shows_nothing() -> None:
    (batch,) = drawn_set("val", 2, 0, size=18).batches(18, 2)
    seen = Observation(toy_tokenizer(), batch.to(torch.device("cpu")), "held_out")
    assert TokenizerReference("toy", toy_tokenizer()).outputs(seen) == [None, None]
