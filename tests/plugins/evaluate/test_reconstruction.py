"""PSNR and SSIM against plain formulas and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import correlate1d

from tests.core.evaluation_sets import ArraySet, ArraySource, drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.errors import DataError
from vtp_core.evaluation.runner import evaluate
from vtp_plugins.evaluate_reconstruction.config import ReconstructionConfig
from vtp_plugins.evaluate_reconstruction.evaluator import Reconstruction
from vtp_plugins.evaluate_reconstruction.metric import mean_color, psnr, ssim


def pair(seed: int, size: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (2, 3, size, size), generator=g)
    noise = torch.randint(-30, 31, x.shape, generator=g)
    return x.to(torch.uint8), (x + noise).clamp(0, 255).to(torch.uint8)


def scipy_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al.'s formula for one channel, by scipy's filters."""
    offset = np.arange(11) - 5
    window = np.exp(-(offset**2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(a: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(a, window, 0), window, 1)[5:-5, 5:-5]

    x, y = x.astype(np.float64), y.astype(np.float64)
    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(np.mean((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))))


@given(st.integers(0, 10_000))
def test_psnr_is_the_formula_an_image(seed: int) -> None:
    x, y = pair(seed)
    expected = [
        10 * math.log10(255**2 / np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
        for a, b in zip(x.numpy(), y.numpy(), strict=True)
    ]
    np.testing.assert_allclose(psnr(y, x).numpy(), expected, rtol=1e-12)


def test_psnr_of_identical_images_is_capped() -> None:
    x, _ = pair(0)
    assert psnr(x, x).tolist() == [100.0, 100.0]


@pytest.mark.parametrize("size", [11, 12, 31])
def test_ssim_is_scipys(size: int) -> None:
    x, y = pair(1, size)
    expected = [
        np.mean([scipy_ssim(a[c], b[c]) for c in range(3)]) for a, b in zip(x.numpy(), y.numpy(), strict=True)
    ]
    np.testing.assert_allclose(ssim(y, x).numpy(), expected, rtol=1e-10)
    np.testing.assert_allclose(ssim(x, x).numpy(), 1, rtol=1e-12)


def test_mean_color() -> None:
    x, _ = pair(2)
    flat = mean_color(x)
    assert flat.dtype == torch.uint8 and flat.shape == x.shape
    assert flat[1, 2].unique().tolist() == [round(x[1, 2].double().mean().item())]


def test_evaluator_averages_images_not_batches() -> None:
    """7 images in batches of 3: the last, smaller batch must not weigh more."""
    held_out = drawn_set("drawn", 7, seed=0)
    model = toy_tokenizer()
    with torch.no_grad():
        model.encoder.scale.fill_(0.8)
    evaluator = Reconstruction(ReconstructionConfig())
    results = evaluate(model, {"rec": evaluator}, held_out, rows=3)
    assert isinstance(held_out.source, ArraySource)
    images = torch.from_numpy(held_out.source.images).permute(0, 3, 1, 2).double()
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1) * 255
    outputs = ((images - mean) * 0.8 + mean).clamp(0, 255)
    expected = psnr(outputs.round(), images).mean().item()
    # The tokenizer computes in float32, so that a few pixels round the other way.
    assert results["psnr"]["value"] == pytest.approx(expected, abs=0.01)
    assert results["psnr"]["baseline"] == pytest.approx(psnr(mean_color(images), images).mean().item())
    assert results["psnr"]["baseline_name"] == "mean colour"
    assert "reconstruction-v1" in str(results["psnr"]["protocol"])
    assert results["ssim"]["value"] > results["ssim"]["baseline"]


def test_a_perfect_tokenizer_is_perfect() -> None:
    results = evaluate(toy_tokenizer(), {"rec": Reconstruction(ReconstructionConfig())}, drawn_set("d", 3, 0))
    assert results["psnr"]["value"] == 100.0
    assert results["ssim"]["value"] == pytest.approx(1.0)


def test_too_small_images_are_refused() -> None:
    images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    held_out = ArraySet(name="small", source=ArraySource(images=images))
    with pytest.raises(DataError, match="11 px"):
        evaluate(toy_tokenizer(image_size=8), {"rec": Reconstruction(ReconstructionConfig())}, held_out)
