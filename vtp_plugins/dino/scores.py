"""Scores of unit vectors against prototypes, made a tile of them at a time, and what is summed over them.

Scores count in bits here: rows are divided by ``temperature * ln 2``, so that ``exp2`` of a score is ``exp``
of the same score in nats. On a CPU torch's ``exp2`` takes a quarter of the time of its ``exp``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BITS = 1 / math.log(2)
"""Bits of a nat."""


def tile_elements(device: torch.device) -> int:
    """Scores of a tile: on a CPU what a cache holds, 2 MiB in float32; elsewhere more, not measured."""
    return 1 << 19 if device.type == "cpu" else 1 << 22


def blocked(length: int, block: int) -> Iterator[slice]:
    """Slices of at most `block` that cover 0 .. length - 1."""
    for start in range(0, length, block):
        yield slice(start, min(start + block, length))


def narrowed(rows: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    """Rows over the temperature, for scores in bits, in the dtype that products are made in."""
    return (rows * (BITS / temperature)).to(dtype)


def times(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T``, (n, m), of (n, E) and (m, E), same dtype.

    In float32 on a CPU by oneDNN if this torch has it: MKL, which torch takes otherwise, reaches 40 % of the
    peak of an AMD core where oneDNN reaches 85 %.
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
    """Scores of rows against prototypes, in bits, in memory that is taken once.

    Fresh memory for each tile costs more than its product: the system hands out pages one by one.

    Args:
        rows: (n, E), as `narrowed` makes them.
        prototypes: (K, E), same dtype.
        like: A tensor of the scores' dtype, float32 or wider.
        tiles: Of prototypes. If there is one, its scores are made once.
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
        """Scores (n, c); overwritten by the next call, unless there is but this tile."""
        if self._single is not None:
            return self._single
        prototypes = self._prototypes[columns]
        shape = self.rows, len(prototypes)
        if self._rows.dtype != self._like.dtype:
            narrow = self._taken("narrow", shape, self._rows.dtype)
            wide = self._taken("wide", shape).copy_(torch.mm(self._rows, prototypes.T, out=narrow))
        elif _one_dnn(self._rows):
            wide = times(self._rows, prototypes)  # oneDNN's operator takes no memory for its result
        else:
            wide = torch.mm(self._rows, prototypes.T, out=self._taken("wide", shape))
        if self._offset is not None:
            wide.add_(self._offset[columns])
        self._single = wide if self._alone else None
        return wide

    def spare(self, columns: int, number: int = 0) -> Tensor:
        """More memory of the shape (n, columns) and dtype of a tile; another one for each number."""
        return self._taken(f"spare {number}", (self.rows, columns))

    def narrow(self, tile: Tensor) -> Tensor:
        """A tile in the products' dtype; lasts until the next one."""
        if self._rows.dtype == self._like.dtype:
            return tile
        return self._taken("narrow", tile.shape, self._rows.dtype).copy_(tile)

    def _taken(self, name: str, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        if name not in self._memory:
            self._memory[name] = self._like.new_empty(self._elements, dtype=dtype)
        return self._memory[name][: shape[0] * shape[1]].view(shape[0], shape[1])


class Sums:
    """Sums of the exponentials of rows whose scores come tile by tile.

    A sum is ``total * 2 ** greatest``. Its logarithm alone would be rounded anew with every tile.

    Attributes:
        greatest: (n, 1) greatest score so far, in bits; None if exponentials are taken of scores as they are,
            which saves two operations of four.
        total: (n, 1).
    """

    def __init__(self, greatest: Tensor | None, total: Tensor) -> None:
        self.greatest, self.total = greatest, total

    @classmethod
    def empty(cls, rows: int, like: Tensor, *, shifted: bool) -> Sums:
        """Sums of nothing."""
        greatest = like.new_full((rows, 1), -torch.inf) if shifted else None
        return cls(greatest, like.new_zeros(rows, 1))

    @classmethod
    def known(cls, logarithm: Tensor, *, shifted: bool) -> Sums:
        """Sums with these logarithms (n, 1), in bits."""
        return cls(logarithm, torch.ones_like(logarithm)) if shifted else cls(None, logarithm.exp2())

    def add(self, tile: Tensor, spare: Tensor) -> None:
        """Adds the exponentials of a tile (n, c), which stays as it is; `spare` is overwritten."""
        if self.greatest is None:
            self.total += torch.exp2(tile, out=spare).sum(1, keepdim=True)
            return
        greatest = torch.maximum(self.greatest, tile.amax(1, keepdim=True))
        self.total *= (self.greatest - greatest).exp2_()
        self.total += torch.sub(tile, greatest, out=spare).exp2_().sum(1, keepdim=True)
        self.greatest = greatest

    def usable(self) -> bool:
        """Whether nothing that counts was too large or too small for the dtype; waits for the device."""
        return self.greatest is not None or within(self.total)

    def relative(self, tile: Tensor) -> Tensor:
        """The scores of a tile less what was taken off before their exponentials were added; in place."""
        return tile if self.greatest is None else tile.sub_(self.greatest)


def within(sums: Tensor) -> bool:
    """Whether sums of exponentials are far enough from the ends of float32, from 2 ** -40 to 2 ** 80.

    Exponentials below 2 ** -126, which float32 has not, then add less to them than it resolves, and so do
    their products with the inverse of another such sum.
    """
    return not sums.numel() or bool(((sums >= 2.0**-40) & (sums <= 2.0**80)).all())
