"""One vector an image, for probes: pooled features, pooled latents, and raw pixels as the baseline."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vtp_core.evaluation.evaluator import Observation
from vtp_core.features import Tally

Reading = Literal["cls", "patches", "cls_patches", "latent", "latent_map"]
"""Class token; mean patch token; both, if there is a class token; mean latent vector; whole latent map."""

RAW_SIDE = 32
"""Side in pixels to which larger images are averaged for the raw-pixel baseline."""


def read_vectors(seen: Observation, reading: Reading) -> Tensor:
    """(B, F) float32 features of the first global crop."""
    if reading == "latent_map":
        return seen.encoded.latent.flatten(1).float()
    if reading == "latent":
        return seen.encoded.latent.mean((2, 3)).float()
    tokens = seen.features["global"]
    mean = tokens.patches[:, 0].mean(1)
    if reading == "patches" or (reading == "cls_patches" and tokens.cls is None):
        return mean.float()
    cls = seen.features.cls[:, 0]
    return (cls if reading == "cls" else torch.cat([cls, mean], 1)).float()


def raw_pixels(image: Tensor) -> Tensor:
    """(B, F) float32 pixels in [0, 1], averaged to at most 32 x 32."""
    unit = image.float() / 255
    if unit.shape[-1] > RAW_SIDE or unit.shape[-2] > RAW_SIDE:
        unit = F.adaptive_avg_pool2d(unit, (min(unit.shape[-2], RAW_SIDE), min(unit.shape[-1], RAW_SIDE)))
    return unit.flatten(1)


class VectorStore:
    """Features, raw pixels and labels of both splits, on the CPU; what `linear_probe` and `knn` collect."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = {}

    def add(self, seen: Observation, reading: Reading) -> None:
        """Takes the labelled images of one batch."""
        assert seen.batch.label is not None
        label = seen.batch.label.cpu()
        known = label >= 0
        for name, values in (
            ("features", read_vectors(seen, reading)),
            ("pixels", raw_pixels(seen.image)),
            ("label", label),
        ):
            self._parts.setdefault(f"{seen.split}.{name}", []).append(values.cpu()[known])

    def tally(self) -> Tally:
        """Everything collected, rows first."""
        kinds = ("features", "pixels", "label")
        names = [f"{split}.{kind}" for split in ("train", "held_out") for kind in kinds]
        return Tally(rows={name: _cat(self._parts.get(name), name) for name in names})


def _cat(parts: list[Tensor] | None, name: str) -> Tensor:
    if parts:
        return torch.cat(parts)
    return torch.zeros(0, dtype=torch.int64) if name.endswith("label") else torch.zeros(0)


def accuracy(predicted: Tensor, label: Tensor) -> float:
    """Share of right predictions, 0 to 1."""
    return float((predicted == label).double().mean())


def per_class_accuracy(predicted: Tensor, label: Tensor) -> float:
    """Accuracy of each class that occurs, averaged: 1 / classes for whatever ignores the image."""
    right = (predicted == label).double()
    return float(torch.stack([right[label == c].mean() for c in torch.bincount(label).nonzero()]).mean())


def majority(label: Tensor) -> float:
    """Share of the most frequent class."""
    return float(torch.bincount(label).max()) / len(label)
