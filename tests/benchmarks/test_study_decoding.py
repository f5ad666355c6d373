from __future__ import annotations

from pathlib import Path

import click
import numpy
import pytest
import torch

from benchmarks.study.decoding import as_images, as_patches, psnr, regress, solve
from benchmarks.study.images import open_images
from benchmarks.study.trained_decoder import TrainedDecoder
from vtp_core.plugins import load_plugins


@pytest.mark.parametrize("window", [1, 3])
def test_the_ridge_is_the_one_of_least_squares_over_windows(window: int) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(10, 12, 2), torch.randn(10, 12, 5)
    ridge = regress(x, y, (3, 4), window=window)
    centered = (x - x.mean((0, 1))).view(10, 3, 4, 2).numpy().astype(numpy.float64)
    half = window // 2
    padded = numpy.pad(centered, ((0, 0), (half, half), (half, half), (0, 0)))
    rows = numpy.stack(
        [
            padded[b, i : i + window, j : j + window].transpose(2, 0, 1).reshape(-1)
            for b in range(10)
            for i in range(3)
            for j in range(4)
        ]
    )
    gram = rows.T @ rows
    wanted = (y - y.mean((0, 1))).flatten(0, 1).double().numpy()
    penalty = ridge.penalty * numpy.diag(gram).mean()
    weight = numpy.linalg.lstsq(gram + penalty * numpy.eye(len(gram)), rows.T @ wanted, rcond=None)[0]
    shown = rows @ weight + y.mean((0, 1)).numpy()
    torch.testing.assert_close(
        ridge.predict(x, (3, 4)).flatten(0, 1).double(), torch.from_numpy(shown), atol=1e-4, rtol=1e-4
    )


def test_patches_are_decoded_without_loss_from_themselves() -> None:
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    patches = as_patches(images, (4, 4))
    assert torch.equal(as_images(patches, (4, 4)), images)
    ridge = solve(patches, images, (4, 4))
    assert psnr(ridge.decode(patches, (4, 4)), images) > 50
    noise = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    assert psnr(noise, images) == pytest.approx(
        numpy.mean([
            10 * numpy.log10(255**2 / ((a.double() - b.double()) ** 2).mean().item())
            for a, b in zip(noise, images, strict=True)
        ])
    )  # fmt: skip


def test_images_are_samples_or_shards(tmp_path: Path) -> None:
    plugins = load_plugins()
    assert len(open_images("samples", "elsewhere", "val", 9, plugins).indices()) == 9
    assert len(open_images("cifar10", None, "train", 7, plugins).indices()) == 7
    with pytest.raises(click.ClickException, match=r"cifar10-test\*\.tar and cifar10-classes\.json"):
        open_images("cifar10", str(tmp_path), "val", 3, plugins)


@pytest.mark.slow
def test_a_trained_decoder_learns_what_is_not_linear() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(120, 4, 2)
    bright = (vectors[..., :1] * vectors[..., 1:] > 0).float()  # no linear decoder tells these apart
    pixels = as_images((0.2 + 0.6 * bright).expand(-1, -1, 48), (2, 2))
    ridge = solve(vectors[:100], pixels[:100], (2, 2)).decode(vectors[100:], (2, 2))
    trained = TrainedDecoder(vectors[:100], pixels[:100], (2, 2), steps=80, seed=0)
    assert psnr(trained.decode(vectors[100:]), pixels[100:]) > psnr(ridge, pixels[100:]) + 2
