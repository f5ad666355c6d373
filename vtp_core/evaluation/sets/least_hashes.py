"""The images of least hash: the same ones at any batch size and number of ranks, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def image_hashes(keys: Sequence[str], image: Tensor) -> Tensor:
    """(B,) int64 of 63 bits: hashes of keys and pixels (B, 3, H, W) uint8; keys alone may repeat."""
    found = [
        hashlib.blake2b(key.encode("utf-8", "replace") + b"\0" + pixels.numpy().tobytes(), digest_size=8)
        for key, pixels in zip(keys, image.cpu(), strict=True)
    ]
    return torch.tensor([int.from_bytes(each.digest(), "big") >> 1 for each in found], dtype=torch.int64)


class LeastHashes:
    """Rows of the images of least hash, on the CPU.

    A new image takes the place of one that is dropped, so that the memory is that of `most` images.

    Args:
        most: Images that are kept, at least 1.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._count = 0
        self._places: dict[str, Tensor] = {}

    @property
    def rows(self) -> dict[str, Tensor]:
        """The rows of the images that are kept, in any order; empty before the first `add`."""
        return {name: places[: self._count] for name, places in self._places.items()}

    def admits(self, hashes: Tensor) -> Tensor:
        """(B,) bool: which images of a batch would be kept among those so far."""
        known = self.rows.get("order", hashes[:0])
        if not len(hashes):
            return torch.zeros(0, dtype=torch.bool)
        joined = torch.cat([known, hashes]).sort().values
        return hashes <= joined[: self.most][-1]

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Adds images; `rows` has their hashes as `order`, and the same names each time."""
        for name, values in rows.items():
            if name not in self._places:
                self._places[name] = values.new_empty(self.most, *values.shape[1:], device="cpu")
        known, order = self._count, rows["order"].cpu()
        chosen = torch.cat([self.rows["order"], order]).argsort(stable=True)[: self.most]
        new = chosen[chosen >= known] - known
        dropped = torch.ones(known, dtype=torch.bool).index_fill_(0, chosen[chosen < known], False)
        free = torch.cat([dropped.nonzero()[:, 0], torch.arange(known, self.most)])[: len(new)]
        for name, values in rows.items():
            self._places[name][free] = values.cpu()[new]
        self._count = len(chosen)


def least(rows: Mapping[str, Tensor], most: int) -> dict[str, Tensor]:
    """The rows of the least hashes, ascending."""
    chosen = torch.argsort(rows["order"], stable=True)[:most]
    return {name: values[chosen] for name, values in rows.items()}
