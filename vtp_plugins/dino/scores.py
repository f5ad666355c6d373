"""Tiles of scores of unit vectors against prototypes, and running sums of their exponentials.

Scores are in bits: rows are divided by ``temperature * ln 2``, so that ``exp2`` of a score is ``exp`` of the
same score in nats. On a CPU torch's ``exp2`` takes a quarter of the time of its ``exp``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BITS = 1 / math.log(2)
"""Bits per nat."""


def tile_elements(device: torch.device) -> int:
    """Scores of a tile: on a CPU 2 MiB in float32, which fits a cache; elsewhere 16 MiB, not measured."""
    return 1 << 19 if device.type == "cpu" else 1 << 22


def blocked(length: int, block: int) -> Iterator[slice]:
    """Slices of at most `block` that cover 0 .. length - 1."""
    for start in range(0, length, block):
        yield slice(start, min(start + block, length))


def narrowed(rows: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    """Rows divided by the temperature, for scores in bits, in the dtype of products."""
    return (rows * (BITS / temperature)).to(dtype)


def times(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T``, (n, m), of (n, E) and (m, E), same dtype.

    Float32 on a CPU uses oneDNN if this torch has it: on an AMD core it reaches 85 % of the peak, MKL 40 %.
    """
    if _one_dnn(a) and a.numel() and b.numel():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
        return product
    return a @ b.T


def _one_dnn(x: Tensor) -> bool:
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return False
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Scores:
    """Scores of rows against prototypes, in bits, in buffers that all tiles reuse.

    Allocating each tile would take longer than its product: the system maps fresh memory page by page.

    Args:
        rows: (n, E), as `narrowed` makes them.
        prototypes: (K, E), same dtype.
        like: A tensor of the scores' dtype, float32 or wider.
        tiles: Slices of prototypes. The scores of a single tile are computed once.
        offset: (K,) added to all rows' scores, in bits, or None.

    Attributes:
        rows: Number n.
    """

    def __init__(
        self, rows: Tensor, prototypes: Tensor, like: Tensor, tiles: list[slice], offset: Tensor | None = None
    ) -> None:
        self.rows = len(rows)
        self._rows, self._prototypes, self._offset = rows, prototypes, offset
        self._like = like
        self._elements = len(rows) * max((tile.stop - tile.start for tile in tiles), default=0)
        self._memory: dict[str, Tensor] = {}
        self._alone = len(tiles) == 1
        self._single: Tensor | None = None

    def tile(self, columns: slice) -> Tensor:
        """Scores (n, c); the next call overwrites them, unless there is a single tile."""
        if self._single is not None:
            return self._single
        prototypes = self._prototypes[columns]
        shape = self.rows, len(prototypes)
        if self._rows.dtype != self._like.dtype:
            narrow = self._taken("narrow", shape, self._rows.dtype)
            wide = self._taken("wide", shape).copy_(torch.mm(self._rows, prototypes.T, out=narrow))
        elif _one_dnn(self._rows):
            wide = times(self._rows, prototypes)  # oneDNN's operator has no out=
        else:
            wide = torch.mm(self._rows, prototypes.T, out=self._taken("wide", shape))
        if self._offset is not None:
            wide.add_(self._offset[columns])
        self._single = wide if self._alone else None
        return wide

    def spare(self, columns: int, number: int = 0) -> Tensor:
        """A buffer (n, columns) of a tile's dtype; each number has its own."""
        return self._taken(f"spare {number}", (self.rows, columns))

    def narrow(self, tile: Tensor) -> Tensor:
        """A tile in the dtype of products; valid until the next one."""
        if self._rows.dtype == self._like.dtype:
            return tile
        return self._taken("narrow", tile.shape, self._rows.dtype).copy_(tile)

    def _taken(self, name: str, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        if name not in self._memory:
            self._memory[name] = self._like.new_empty(self._elements, dtype=dtype)
        return self._memory[name][: shape[0] * shape[1]].view(shape[0], shape[1])


class Sums:
    """Running sums of exponentials of each row, over tiles of scores.

    A sum is ``total * 2 ** greatest``; keeping its logarithm instead would round it with every tile.

    Attributes:
        greatest: (n, 1) greatest score so far, in bits; None without shift, which halves the operations.
        total: (n, 1).
    """

    def __init__(self, greatest: Tensor | None, total: Tensor) -> None:
        self.greatest, self.total = greatest, total

    @classmethod
    def empty(cls, rows: int, like: Tensor, *, shifted: bool) -> Sums:
        """Sums of no scores."""
        greatest = like.new_full((rows, 1), -torch.inf) if shifted else None
        return cls(greatest, like.new_zeros(rows, 1))

    @classmethod
    def known(cls, logarithm: Tensor, *, shifted: bool) -> Sums:
        """Sums with these logarithms (n, 1), in bits."""
        return cls(logarithm, torch.ones_like(logarithm)) if shifted else cls(None, logarithm.exp2())

    def add(self, tile: Tensor, spare: Tensor) -> None:
        """Adds the exponentials of a tile (n, c); `spare` is overwritten, the tile is not."""
        if self.greatest is None:
            self.total += torch.exp2(tile, out=spare).sum(1, keepdim=True)
            return
        greatest = torch.maximum(self.greatest, tile.amax(1, keepdim=True))
        self.total *= (self.greatest - greatest).exp2_()
        self.total += torch.sub(tile, greatest, out=spare).exp2_().sum(1, keepdim=True)
        self.greatest = greatest

    def usable(self) -> bool:
        """Whether all sums are in range; synchronises the device."""
        return self.greatest is not None or within(self.total)

    def relative(self, tile: Tensor) -> Tensor:
        """Shifts the scores of a tile as `add` did, in place."""
        return tile if self.greatest is None else tile.sub_(self.greatest)


def within(sums: Tensor) -> bool:
    """Whether sums of exponentials are in [2 ** -40, 2 ** 80], far from the limits of float32.

    Then exponentials that underflow (below 2 ** -126) would not change a sum, nor would their products with
    the inverse of another such sum.
    """
    return not sums.numel() or bool(((sums >= 2.0**-40) & (sums <= 2.0**80)).all())
