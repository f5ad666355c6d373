"""The images of least hash: the same ones at any batch size and number of ranks, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

NUMBERS = 2**24
"""Most numbers of latents that are kept."""


def image_hashes(keys: Sequence[str], image: Tensor) -> Tensor:
    """(B,) int64 of 63 bits: hashes of keys and pixels (B, 3, H, W) uint8; keys alone may repeat."""
    found = [
        hashlib.blake2b(key.encode("utf-8", "replace") + b"\0" + pixels.numpy().tobytes(), digest_size=8)
        for key, pixels in zip(keys, image.cpu(), strict=True)
    ]
    return torch.tensor([int.from_bytes(each.digest(), "big") >> 1 for each in found], dtype=torch.int64)


def most_images(samples: int, numbers: int) -> int:
    """How many images of `numbers` numbers are kept of at most `samples`; never fewer than two."""
    return max(2, min(samples, NUMBERS // max(numbers, 1)))


class LeastHashes:
    """Rows of the images of least hash, on the CPU.

    Args:
        most: Images that are kept.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.rows: dict[str, Tensor] = {}

    def admits(self, hashes: Tensor) -> Tensor:
        """(B,) bool: which images of a batch would be kept among those so far."""
        known = self.rows.get("order", hashes[:0])
        if not len(hashes):
            return torch.zeros(0, dtype=torch.bool)
        joined = torch.cat([known, hashes]).sort().values
        return hashes <= joined[: self.most][-1]

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Adds images; `rows` has their hashes as `order`."""
        both = {
            name: torch.cat([self.rows.get(name, values[:0]), values.cpu()]) for name, values in rows.items()
        }
        self.rows = least(both, self.most)


def least(rows: Mapping[str, Tensor], most: int) -> dict[str, Tensor]:
    """The rows of the least hashes, ascending."""
    chosen = torch.argsort(rows["order"], stable=True)[:most]
    return {name: values[chosen] for name, values in rows.items()}
