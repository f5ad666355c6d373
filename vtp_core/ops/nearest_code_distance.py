"""The distance that `nearest_code` minimises, in float64, defined to the last bit.

Every implementation, on every instruction set and device, must find the index that this definition gives, so
it fixes the order of each sum:

- A sum over D terms runs in eight lanes: term d is added to lane d mod 8, in the order of d, each product
  and each sum rounded to float64 by itself (no fused multiply-add). The lanes are then halved three times:
  lane i gets lane i + 4, lane i gets lane i + 2, lane 0 gets lane 1. Terms of +0 change nothing.
- ``l2``: the sum of (x - c) * (x - c).
- ``weighted``: the sum of ((x - c) * (x - c)) * w.
- ``cosine``: half the sum of (u - v) * (u - v) with the unit vectors u of x and v of c. That is 1 - cos,
  without its cancellation. u = y * (1 / sqrt(sum of y * y)) with y = x * 2**-600 if max |x| > 2**500,
  y = x * 2**600 if it is below 2**-500 (float64 inputs only), else y = x. A vector of zeros has cosine 0
  with every vector: distance 1.

Inputs are widened to float64 first, which is exact. Infinities and NaN follow IEEE arithmetic.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Metric = Literal["l2", "cosine", "weighted"]
METRICS: tuple[str, ...] = get_args(Metric)
LANES = 8


def lane_sum(terms: Tensor) -> Tensor:
    """Sum over the last axis in the order that the definition fixes.

    Args:
        terms: (..., D) float64.

    Returns:
        (...,) float64.
    """
    short = -terms.shape[-1] % LANES
    lanes = F.pad(terms, (0, short)) if short else terms
    first: Tensor
    first, *others = lanes.split(LANES, dim=-1)
    for other in others:
        first = first + other
    for half in (4, 2, 1):
        first = first[..., :half] + first[..., half:]
    return first.squeeze(-1)


def widened(vectors: Tensor, metric: str) -> Tensor:
    """Operands of the difference: the vectors in float64 or, for ``cosine``, their unit vectors.

    Args:
        vectors: (..., D) floating point.
        metric: One of `METRICS`.

    Returns:
        (..., D) float64; for ``cosine``, vectors of zeros stay zeros and infinite entries become NaN.
    """
    wide = vectors.to(torch.float64)
    if metric != "cosine":
        return wide
    if vectors.dtype == torch.float64:
        largest = wide.abs().amax(-1, keepdim=True)
        scale = torch.ones_like(largest)
        scale[largest > 2.0**500] = 2.0**-600
        scale[largest < 2.0**-500] = 2.0**600
        wide = wide * scale
    unit = wide * _one_over_root(lane_sum(wide * wide)).unsqueeze(-1)
    zero: Tensor = (wide == 0).all(-1, keepdim=True)
    result: Tensor = unit.masked_fill(zero, 0.0)
    return result


def _one_over_root(x: Tensor) -> Tensor:
    """1 / sqrt(x), both operations rounded correctly: rsqrt is on CPUs, where sqrt may be a library's."""
    return x.rsqrt() if x.device.type == "cpu" else x.sqrt().reciprocal()


def distance_between(x: Tensor, c: Tensor, metric: str, weight: Tensor | None) -> Tensor:
    """Distance of each vector to its code, pair by pair.

    Args:
        x: (..., D) float64, from `widened`.
        c: (..., D) float64, from `widened`; broadcasts with `x`.
        metric: One of `METRICS`.
        weight: (D,) float64 for ``weighted``, else None.

    Returns:
        (...,) float64, >= 0, or NaN where an input is NaN or two infinities cancel.
    """
    difference = x - c
    terms = difference * difference
    if weight is not None:
        terms = terms * weight
    distance = lane_sum(terms)
    if metric != "cosine":
        return distance
    no_direction = (x == 0).all(-1) | (c == 0).all(-1)
    return torch.where(no_direction & ~distance.isnan(), 1.0, distance * 0.5)
