"""One vector per image: pooled features or latents, and raw pixels as the baseline."""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vtp_core.evaluation.evaluator import Observation
from vtp_core.features import Tally

Reading = Literal["cls", "patches", "cls_patches", "last_layer", "latent", "latent_map"]
"""Class token; mean patch token; both (the mean alone without a class token), which is what the last layer
gives; mean latent; latent map. The latent of codes is their codebook vectors."""

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
    if reading == "patches" or (reading in ("cls_patches", "last_layer") and tokens.cls is None):
        return mean.float()
    cls = seen.features.cls[:, 0]
    return (cls if reading == "cls" else torch.cat([cls, mean], 1)).float()


def raw_pixels(image: Tensor) -> Tensor:
    """(B, F) uint8 pixels of images (B, 3, H, W) uint8, averaged to at most 32 x 32 and rounded."""
    height, width = (min(side, RAW_SIDE) for side in image.shape[-2:])
    if (height, width) != image.shape[-2:]:
        image = F.adaptive_avg_pool2d(image.float(), (height, width)).round().to(torch.uint8)
    return image.flatten(1)


class VectorStore:
    """Features (float32), raw pixels (uint8), labels and an order of both splits, on the CPU.

    The order is a hash of key and pixels: random, and the same for any tokenizer and number of ranks.
    """

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = {}

    def add(self, seen: Observation, vectors: Tensor) -> None:
        """Adds the labelled images of a batch.

        Args:
            seen: The batch.
            vectors: (B, F), its features.
        """
        assert seen.batch.label is not None
        label = seen.batch.label.cpu()
        known, pixels = label >= 0, raw_pixels(seen.image).cpu()
        order = [_digest(key, row) for key, row in zip(seen.batch.keys, pixels, strict=True)]
        for name, values in (
            ("features", vectors.float()),
            ("pixels", pixels),
            ("label", label),
            ("order", torch.tensor(order, dtype=torch.int64)),
        ):
            self._parts.setdefault(f"{seen.split}.{name}", []).append(values.cpu()[known])

    def tally(self) -> Tally:
        """All collected rows."""
        kinds = {"features": torch.float32, "pixels": torch.uint8, "label": torch.int64, "order": torch.int64}
        rows: dict[str, Tensor] = {}
        for split in ("train", "held_out"):
            for kind, dtype in kinds.items():
                parts = self._parts.setdefault(f"{split}.{kind}", [])
                parts[:] = [torch.cat(parts) if parts else torch.zeros(0, dtype=dtype)]
                rows[f"{split}.{kind}"] = parts[0]
        return Tally(rows=rows)


def _digest(key: str, pixels: Tensor) -> int:
    """63 bits; keys alone may repeat between shards."""
    data = key.encode("utf-8", "replace") + b"\0" + pixels.numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1
