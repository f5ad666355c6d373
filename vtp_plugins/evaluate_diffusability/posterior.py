"""The posterior over a set of points given a point of the flow, leave-one-out, by the attention operator.

A flow from noise to latents has x_t = t z + (1 - t) e with e standard normal. Where z is one of N points,
the posterior of z given x_t is a softmax over them of -|x_t - t z|^2 / (2 (1 - t)^2), so that the posterior
mean is softmax attention of x_t over the points. The velocity z - e is (z - x_t) / (1 - t): its optimal
prediction follows from that mean, and its irreducible variance is the posterior's divided by (1 - t)^2.

Source:
    Lipman et al. 2023 (equations 8 and 9) for the flow; the mixture of points is Bayes' rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vtp_core.ops import vit_attention


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """What is known of the point that a query came from. Shapes: I images of n points each.

    Attributes:
        mean: (I, n, d), the posterior mean.
        variance: (I, n), the trace of the posterior covariance.
        entropy: (I, n), of the weights in nats; its exponential is the effective number of neighbours.
        log_sum: (I, n), log of the sum of exp(-|x - a z|^2 / (2 b^2)) over the points.
    """

    mean: Tensor
    variance: Tensor
    entropy: Tensor
    log_sum: Tensor


def group_size(images: int) -> int:
    """Images of a tile; only whole tiles are used."""
    return max(math.isqrt(images), 1)


def posterior_of_others(points: Tensor, x: Tensor, a: float, b: float) -> Posterior:
    """The posterior at `x` over the points of all other images, with a uniform prior and x = a z + b e.

    Tiles of g = `group_size(I)` images attend to each other's tiles, then the images of a tile to one
    another: no score matrix holds more than g I n^2 numbers. Tiles are merged by their log-sum-exp.

    Args:
        points: (I, n, d) float64; I is a multiple of g.
        x: (I, n, d) float64, the queries: those of an image see the points of the others.
        a: Factor of the point.
        b: Deviation of the noise, > 0.
    """
    images, count, width = points.shape
    square = points.square().sum(-1, keepdim=True)
    # The scores as a product: (a x / b^2) z - (a^2 / 2 b^2) |z|^2 - |x|^2 / (2 b^2).
    keys = torch.cat([points, square, torch.ones_like(square)], -1)
    offset = -x.square().sum(-1, keepdim=True) / (2 * b**2)
    queries = torch.cat([x * (a / b**2), torch.full_like(offset, -(a**2) / (2 * b**2)), offset], -1)

    # The log-sum-exp is float32: with the largest score at zero it loses nothing.
    largest = torch.full_like(offset[..., 0], -torch.inf)
    for q, k in _pairs(queries, keys):
        best = (q @ k.transpose(-1, -2)).amax(-1)
        largest = torch.maximum(largest, best.view(images, count))
    queries = torch.cat([queries[..., :-1], offset - largest[..., None]], -1)

    out, total = torch.zeros_like(keys), torch.full_like(largest, -torch.inf)
    for q, k in _pairs(queries, keys):
        k = k.contiguous()
        part, lse = vit_attention(q[:, None], k[:, None], k[:, None], scale=1.0, return_lse=True)
        part, lse = part.reshape(keys.shape), lse.reshape(total.shape).double()
        both = torch.logaddexp(total, lse)
        out = out * (total - both).exp()[..., None] + part * (lse - both).exp()[..., None]
        total = both
    mean = out[..., :width]
    return Posterior(
        mean=mean,
        variance=(out[..., width] - mean.square().sum(-1)).clamp_min(0),
        entropy=(total - (queries * out).sum(-1)).clamp_min(0),
        log_sum=total + largest,
    )


def _pairs(queries: Tensor, keys: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of queries and of keys (B, N, w): each image beside every other one, exactly once."""
    images, count, width = queries.shape
    group = group_size(images)
    tiles = (images // group, group, count, width)
    assert images % group == 0, "only whole tiles"
    q, k = queries.view(tiles), keys.view(tiles)
    for shift in range(1, tiles[0]):
        yield q.flatten(1, 2), k.roll(shift, 0).flatten(1, 2)
    for shift in range(1, group):
        yield q.flatten(0, 1), k.roll(shift, 1).flatten(0, 1)
