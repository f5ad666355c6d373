"""Measures a latent, and draws the held-out images anew for intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.study.decoding import as_images, image_psnr, regress, solve
from benchmarks.study_branches.features import Layers
from benchmarks.study_branches.latents import Latents
from benchmarks.study_branches.pictures import colour_shift, fine_energy
from vtp_plugins.evaluate_linear_probe.metric import probe

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2)
"""Candidate penalties of the linear probe."""
DRAWS = 100
"""Sets of held-out images that are drawn with replacement, the same for every cell."""
INTERVAL = 1.96
"""Standard errors on either side."""


@dataclass(frozen=True)
class Terms:
    """A measure: the sum of a number of each image, divided by the sum of another.

    Attributes:
        value: (B,).
        of: (B,); None: 1 each.
    """

    value: Tensor
    of: Tensor | None = None

    def over(self, counts: Tensor) -> Tensor:
        """The measure of each set (R,), from how often images are in it, counts (R, B)."""
        of = torch.ones_like(self.value) if self.of is None else self.of
        return (counts @ self.value.double()) / (counts @ of.double()).clamp(min=1e-12)


@torch.no_grad()
def measure(latents: Latents, layers: Layers, decoder: int) -> Mapping[str, Any]:
    """`metrics` as those of ``eval.json``, and `draws`, the numbers of each drawn set, as text."""
    train, val = layers.train, layers.val
    known, seen = latents.train[:decoder], latents.val
    ridge = solve(known, train.pixels[:decoder], train.grid)
    images = ridge.decode(seen, val.grid)
    flat = as_images(ridge.offset.expand(len(seen), seen.shape[1], -1), val.grid)
    deep = regress(known, train.patches[:decoder].float(), train.grid, window=1)
    with torch.enable_grad():
        fitted = probe(latents.train.mean(1), train.label, seen.mean(1), STRENGTHS)
    terms = {
        "psnr": Terms(image_psnr(images, val.pixels)),
        "probe": Terms((fitted.predicted == val.label).double()),
        "colour_shift": Terms(colour_shift(images, val.pixels)),
        "texture": Terms(fine_energy(images), fine_energy(val.pixels)),
        "deep_r2": _recovered(deep.predict(seen, val.grid), val.patches.float(), deep.offset),
        "pixel_r2": _recovered(images.double(), val.pixels.double(), flat.double()),
    }
    trivial = {
        "psnr": ("mean patch", Terms(image_psnr(flat, val.pixels))),
        "probe": ("most frequent class", Terms((val.label == val.label.mode().values).double())),
        "colour_shift": ("mean patch", Terms(colour_shift(flat, val.pixels))),
    }
    counts = drawn_counts(len(val.label))
    once = torch.ones(1, len(val.label), dtype=torch.float64)
    metrics: dict[str, dict[str, Any]] = {name: {"value": value} for name, value in latents.report.items()}
    draws: dict[str, str] = {}
    for name, found in terms.items():
        value, sets = found.over(once).item(), found.over(counts)
        error = INTERVAL * sets.std().item()
        metrics[name] = {"value": value, "low": value - error, "high": value + error}
        draws[name] = " ".join(f"{each:.5g}" for each in sets.tolist())
    for name, (title, found) in trivial.items():
        metrics[name] |= {"baseline": found.over(once).item(), "baseline_name": title}
    return {"metrics": metrics, "draws": draws}


def drawn_counts(images: int) -> Tensor:
    """(DRAWS, images) float64, how often each image is in each set; the same for the same number."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(images, (DRAWS, images), generator=generator)
    return torch.zeros(DRAWS, images, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(DRAWS, images, dtype=torch.float64)
    )


def _recovered(shown: Tensor, wanted: Tensor, mean: Tensor) -> Terms:
    """R^2: the share of the variance about the training images' mean that is recovered."""
    total = (wanted - mean).square().flatten(1).double().sum(1)
    return Terms(total - (shown - wanted).square().flatten(1).double().sum(1), total)
