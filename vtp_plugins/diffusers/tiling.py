"""A network over overlapping tiles of a large map, blended linearly where they overlap."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def tiled(
    call: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: float, *, inputs: int, outputs: int
) -> Tensor:
    """What `call` gives for tiles of a map, put together.

    All tiles have the full size, which is what networks with positions were trained with; the last one of a
    row or column ends with the map. Each result weighs linearly less towards a border that another tile
    overlaps.

    Args:
        call: Maps (B, C, tile * inputs, tile * inputs) to (B, C', tile * outputs, tile * outputs).
        x: (B, C, h * inputs, w * inputs).
        tile: Side of a tile in latent positions.
        overlap: Fraction of a tile that neighbours share, in [0, 1).
        inputs: Elements of `x` a side of a position.
        outputs: Elements of the result a side of a position.

    Returns:
        (B, C', h * outputs, w * outputs).
    """
    height, width = (side // inputs for side in x.shape[-2:])
    shared = min(tile - 1, int(tile * overlap))
    total: Tensor | None = None
    weights = torch.zeros(height * outputs, width * outputs, dtype=torch.float64, device="cpu")
    for top in _starts(height, tile, tile - shared):
        for left in _starts(width, tile, tile - shared):
            rows, columns = min(tile, height), min(tile, width)
            part = x[..., top * inputs : (top + rows) * inputs, left * inputs : (left + columns) * inputs]
            found = call(part)
            ramp = _ramp(rows, shared, top > 0, top + rows < height, outputs)[:, None] * _ramp(
                columns, shared, left > 0, left + columns < width, outputs
            )
            place = (
                ...,
                slice(top * outputs, (top + rows) * outputs),
                slice(left * outputs, (left + columns) * outputs),
            )
            if total is None:
                total = found.new_zeros(*found.shape[:2], *weights.shape)
            total[place] += found * ramp.to(found)
            weights[place] += ramp
    assert total is not None
    return total / weights.to(total)


def _starts(length: int, tile: int, stride: int) -> list[int]:
    """First positions of the tiles of a row; the last tile ends with it."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, stride), length - tile]


def _ramp(length: int, shared: int, before: bool, after: bool, scale: int) -> Tensor:
    """Weights of a tile's rows: 1, and rising from a border that a neighbour overlaps."""
    weights = torch.ones(length * scale, dtype=torch.float64, device="cpu")
    rise = (torch.arange(shared * scale, dtype=torch.float64, device="cpu") + 0.5) / max(1, shared * scale)
    if before:
        weights[: len(rise)] *= rise
    if after:
        weights[len(weights) - len(rise) :] *= rise.flip(0)
    return weights
