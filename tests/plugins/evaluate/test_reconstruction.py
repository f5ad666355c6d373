"""PSNR, SSIM, MS-SSIM, LPIPS, colour shift and texture against plain formulas, scipy and torchmetrics."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.ndimage import correlate1d
from torchmetrics.functional.image.lpips import _LPIPS
from torchmetrics.functional.image.ssim import multiscale_structural_similarity_index_measure as whole_ms_ssim
from torchmetrics.functional.image.ssim import structural_similarity_index_measure as torchmetrics_ssim

from tests.agreement import Agreement
from tests.core.evaluation_sets import ArraySet, ArraySource, drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.errors import DataError, UsageError
from vtp_core.evaluation.runner import evaluate
from vtp_core.testing import check_evaluator
from vtp_plugins.evaluate_reconstruction.color import grid_colors, mean_color, mean_lab
from vtp_plugins.evaluate_reconstruction.config import ReconstructionConfig
from vtp_plugins.evaluate_reconstruction.evaluator import Reconstruction
from vtp_plugins.evaluate_reconstruction.metric import fine_energy, ms_ssim, psnr, ssim
from vtp_plugins.evaluate_reconstruction.perceptual import lpips, lpips_network


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


@pytest.mark.agrees("SSIM, windows by scipy's filters", "scipy", 1e-10)
@pytest.mark.parametrize("size", [11, 12, 31])
def test_ssim_is_scipys(size: int, agreement: Agreement) -> None:
    x, y = pair(1, size)
    expected = [
        np.mean([scipy_ssim(a[c], b[c]) for c in range(3)]) for a, b in zip(x.numpy(), y.numpy(), strict=True)
    ]
    agreement(ssim(y, x), expected)
    np.testing.assert_allclose(ssim(x, x).numpy(), 1, rtol=1e-12)


def torchmetrics_terms(y: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """SSIM where the window fits, and its contrast term; torchmetrics' own mean has mirrored borders."""
    settings = {"data_range": 255.0, "reduction": "none"}
    _, whole = torchmetrics_ssim(y, x, return_full_image=True, **settings)
    _, contrast = torchmetrics_ssim(y, x, return_contrast_sensitivity=True, **settings)
    return whole[..., 5:-5, 5:-5].mean((1, 2, 3)), contrast


@pytest.mark.agrees("SSIM", "torchmetrics", 1e-6)
def test_ssim_is_torchmetrics(agreement: Agreement) -> None:
    x, y = (image.double() for image in pair(3))
    agreement(ssim(y, x), torchmetrics_terms(y, x)[0])


@pytest.mark.agrees("SSIM with mirrored borders, as in `vtp-2512`", "torchmetrics", 1e-6)
@pytest.mark.parametrize("size", [11, 24])
def test_ssim_with_mirrored_borders_is_torchmetrics_default(size: int, agreement: Agreement) -> None:
    x, y = (image.double() for image in pair(5, size))
    expected = torchmetrics_ssim(y / 255, x / 255, data_range=1.0, reduction="none")
    agreement(ssim(y, x, mirrored=True), expected)
    assert (ssim(y, x) - expected).abs().min() > 1e-4


@pytest.mark.agrees("MS-SSIM, where the window fits", "torchmetrics", 1e-6)
@pytest.mark.agrees("MS-SSIM, beside mirrored borders", "torchmetrics", 1e-3)
@pytest.mark.slow
def test_ms_ssim_is_torchmetrics(agreement: Agreement) -> None:
    """Noise on two images, and the contrast of a third turned round: negative terms count as 0."""
    x, y = pair(3, 180)
    x, y = torch.cat([x, x[:1]]).double(), torch.cat([y, 255 - x[:1]]).double()
    expected, a, b = torch.ones(3, dtype=torch.float64), x, y
    for beta in (0.0448, 0.2856, 0.3001, 0.2363):
        expected *= torchmetrics_terms(b, a)[1].relu() ** beta
        a, b = torch.nn.functional.avg_pool2d(a, 2), torch.nn.functional.avg_pool2d(b, 2)
    expected *= torchmetrics_terms(b, a)[0].relu() ** 0.1333
    assert expected[2] == 0 and 0.5 < expected[1] < 1
    agreement(ms_ssim(y, x), expected, "MS-SSIM, where the window fits")
    theirs = whole_ms_ssim(y, x, data_range=255.0, reduction="none", normalize="relu")
    agreement(ms_ssim(y, x), theirs, "MS-SSIM, beside mirrored borders")


@pytest.mark.agrees("LPIPS, SqueezeNet", "torchmetrics", 1e-6)
def test_lpips_is_torchmetrics_on_the_same_trunk(tmp_path: Path, agreement: Agreement) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = _LPIPS(pretrained=True, net="squeeze", pnet_rand=True)
    state = {
        f"features.{name.split('.', 2)[2]}": tensor.clone()
        for name, tensor in reference.net.state_dict().items()
    }
    save_file(state, tmp_path / "trunk.safetensors")
    network = lpips_network("lpips_squeeze", str(tmp_path / "trunk.safetensors"))
    x, y = pair(4, 48)
    found, same = lpips(network, (y, x), x)
    with torch.no_grad():
        expected = reference(y.float() / 127.5 - 1, x.float() / 127.5 - 1).flatten()
    agreement(found, expected.double())
    assert same.abs().max() < 1e-6 < found.min()


def plain_lab(pixels: np.ndarray) -> list[float]:
    """L*, a*, b* of the mean of (3, H, W) pixels, number by number."""
    linear = []
    for channel in pixels.astype(np.float64):
        value = channel.mean() / 255
        linear.append(value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)
    r, g, b = linear
    ratios = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in ratios)
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


def test_lab_is_the_plain_formula_and_cies_colours() -> None:
    x = torch.cat([pair(5)[0], torch.randint(0, 9, (1, 3, 24, 24))]).to(torch.uint8)
    np.testing.assert_allclose(mean_lab(x).numpy(), [plain_lab(one) for one in x.numpy()], atol=1e-6)
    colors = torch.tensor([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 128, 0]]).view(4, 3, 1, 1)
    known = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [46.23, -51.70, 49.90]]
    np.testing.assert_allclose(mean_lab(colors).numpy(), known, atol=0.03)


def test_fine_energy_is_scipys() -> None:
    x, _ = pair(6, 15)
    offset = np.arange(11) - 5
    window = np.exp(-(offset**2) / 4.5)
    window /= window.sum()
    rest = [
        [c - correlate1d(correlate1d(c, window, 0), window, 1) for c in image] for image in x.double().numpy()
    ]
    expected = [np.mean([c[5:-5, 5:-5] ** 2 for c in image]) for image in rest]
    np.testing.assert_allclose(fine_energy(x).numpy(), expected, rtol=1e-10)
    assert fine_energy(mean_color(x)).tolist() == pytest.approx([0, 0], abs=1e-20)


def test_colours_of_a_grid() -> None:
    x, _ = pair(7, 24)
    cells = x.double().reshape(2, 3, 4, 6, 3, 8).mean((3, 5)).round()
    found = grid_colors(x, (4, 3)).double()
    # At the middle of the image's outermost half cells only one cell counts.
    torch.testing.assert_close(found[:, :, 0, 0], cells[:, :, 0, 0])
    torch.testing.assert_close(found[:, :, -1, -1], cells[:, :, -1, -1])
    assert (grid_colors(x, (24, 24)) == x).all() and (grid_colors(x, (1, 1)) == mean_color(x)).all()


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


def test_colour_shift_and_texture_of_a_scaled_tokenizer() -> None:
    """A gain of the latent scales contrast, so that the energy is its square; the mean colour moves."""
    held_out = drawn_set("drawn", 9, seed=0)
    model = toy_tokenizer()
    with torch.no_grad():
        model.encoder.scale.fill_(0.7)
    results = evaluate(model, {"rec": Reconstruction(ReconstructionConfig())}, held_out, rows=4)
    assert isinstance(held_out.source, ArraySource)
    images = torch.from_numpy(held_out.source.images).permute(0, 3, 1, 2).double()
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1) * 255
    outputs = ((images - mean) * 0.7 + mean).round()
    shift = mean_lab(outputs) - mean_lab(images)
    color, texture = results["color_shift"], results["texture"]
    assert color["value"] == pytest.approx(shift.abs().mean().item(), abs=1e-3)
    for name, signed in zip(("L", "a", "b"), shift.mean(0).tolist(), strict=True):
        assert color["also"][f"shift of {name}*"] == pytest.approx(signed, abs=1e-3)
    lab = mean_lab(images)
    others = [(lab[i] - torch.cat([lab[:i], lab[i + 1 :]]).mean(0)).abs().mean() for i in range(9)]
    assert color["baseline"] == pytest.approx(torch.stack(others).mean().item(), abs=1e-9)
    assert color["baseline_name"] == "mean colour of the other images" and color["verdict"] == "better"
    expected = fine_energy(outputs).sum() / fine_energy(images).sum()
    assert texture["value"] == pytest.approx(expected.item(), abs=1e-4) == pytest.approx(0.49, abs=2e-3)
    assert set(texture["baselines"]) == {"mean colour", "colours of the latent's grid"}
    low, high = texture["interval"]
    assert low < texture["value"] < high and texture["verdict"] == "better" and not texture["notes"]
    assert results["psnr"]["baselines"].keys() == {"mean colour"}
    assert "colours of the latent's grid" in results["psnr"]["also"]


def test_images_without_high_frequencies_have_no_texture() -> None:
    flat = ArraySet(name="flat", source=ArraySource(images=np.full((3, 16, 16, 3), 90, dtype=np.uint8)))
    results = evaluate(toy_tokenizer(), {"rec": Reconstruction(ReconstructionConfig())}, flat)
    assert "texture" not in results and results["color_shift"]["value"] < 1e-6


@pytest.mark.parametrize("size", [160, 176])
def test_ms_ssim_needs_176_px(size: int) -> None:
    results = evaluate(
        toy_tokenizer(image_size=size),
        {"rec": Reconstruction(ReconstructionConfig())},
        drawn_set("d", 2, 0, size=size),
    )
    assert ("ms_ssim" in results) == (size == 176)
    notes = results["ssim"]["notes"]
    assert notes == ([] if size == 176 else ["MS-SSIM is left out: it needs images of 176 px or more"])


def test_lpips_is_measured_if_its_network_is_named() -> None:
    config = ReconstructionConfig(lpips="lpips_squeeze", lpips_weights="random")
    check_evaluator(Reconstruction, config, samples=5)
    one, other = (Reconstruction(config) for _ in range(2))
    one.load(), other.load()
    assert one.protocol_of("lpips_random") == other.protocol_of("lpips_random") != one.protocol
    assert "trunk random" in one.protocol_of("lpips_random") and "random" not in one.protocol_of("psnr")
    results = evaluate(toy_tokenizer(image_size=32), {"rec": one}, drawn_set("d", 3, 0, size=32))
    assert results["lpips_random"]["value"] < results["lpips_random"]["baseline"]
    small = evaluate(toy_tokenizer(), {"rec": Reconstruction(ReconstructionConfig())}, drawn_set("d", 3, 0))
    assert not any(name.startswith("lpips") for name in small)
    with pytest.raises(DataError, match="LPIPS needs images of 32 px"):
        evaluate(toy_tokenizer(), {"rec": one}, drawn_set("d", 3, 0))


def test_weights_of_lpips_are_never_fetched_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        UsageError, match="weights of alexnet not found; give one of: a file as `lpips_weights"
    ):
        Reconstruction(ReconstructionConfig(lpips="lpips_alex")).load()
    with pytest.raises(UsageError, match="lpips_weights needs lpips"):
        Reconstruction(ReconstructionConfig(lpips_weights="alex.safetensors"))
    reason = Reconstruction.must_download(ReconstructionConfig(lpips="lpips_alex"))
    assert reason == "the trunk of lpips_alex comes from torchvision's hub; give its file as lpips_weights"
    assert "of lpips_vgg" in str(Reconstruction.must_download(ReconstructionConfig(protocol="vtp-2512")))
    given = ReconstructionConfig(lpips="lpips_alex", lpips_weights="alex.safetensors")
    assert Reconstruction.must_download(given) is None
    assert Reconstruction.must_download(ReconstructionConfig()) is None
