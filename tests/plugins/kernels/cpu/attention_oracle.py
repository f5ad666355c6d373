"""Attention written out in float64 for the tests of the C++ kernels; gradients by autograd of the formulas.

The finite differences behind them: `tests/core/ops/test_attention.py` checks the torch reference with
gradcheck, and `test_attention.py` here compares this file with that reference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from vtp_core.ops import Rope

EPS = 1e-5


@dataclass
class Inputs:
    """Arguments of one packed call; a dense call is one of equal lengths.

    Attributes:
        q: (T, H, d).
        k: (T, H, d).
        v: (T, H, d).
        lengths: Tokens of each sequence.
        scale: Factor on the scores.
        q_norm: (d,) or None.
        k_norm: (d,) or None.
        rope: Tables (T, d) or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    lengths: list[int]
    scale: float
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    rope: Rope | None = None

    @property
    def starts(self) -> Tensor:
        return torch.tensor([0, *self.lengths]).cumsum(0)

    def leaves(self) -> list[Tensor]:
        """What gradients are asked for."""
        return [x for x in (self.q, self.k, self.v, self.q_norm, self.k_norm) if x is not None]

    def copy(self, dtype: torch.dtype | None = None) -> Inputs:
        """New leaves, in `dtype` if it is given."""

        def fresh(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.detach().to(dtype or x.dtype).clone().requires_grad_()

        q, k, v, q_norm, k_norm = (fresh(x) for x in (self.q, self.k, self.v, self.q_norm, self.k_norm))
        assert q is not None and k is not None and v is not None
        return replace(self, q=q, k=k, v=v, q_norm=q_norm, k_norm=k_norm)


def drawn(
    lengths: list[int],
    heads: int,
    width: int,
    dtype: torch.dtype,
    *,
    norm: bool = False,
    tables: torch.dtype | None = None,
) -> Inputs:
    total = sum(lengths)
    q, k, v = torch.randn(3, total, heads, width).to(dtype).unbind()
    q_norm, k_norm = (torch.rand(2, width) + 0.5).unbind() if norm else (None, None)
    angles = torch.randn(total, width, dtype=torch.float64)
    rope = Rope(angles.cos().to(tables), angles.sin().to(tables)) if tables else None
    return Inputs(q, k, v, lengths, width**-0.5, q_norm, k_norm, rope)


def attention64(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Output (T, H, d) and log-sum-exp (T, H)."""
    q = prepared(inputs.q.double(), inputs.q_norm, inputs.rope)
    k = prepared(inputs.k.double(), inputs.k_norm, inputs.rope)
    v = inputs.v.double()
    outs, lses = [v[:0]], [v[:0, :, 0]]
    for start, stop in pairwise(inputs.starts.tolist()):
        if start == stop:
            continue
        scores = torch.einsum("nhd,mhd->hnm", q[start:stop], k[start:stop]) * inputs.scale
        top = scores.amax(-1, keepdim=True).detach()
        weights = (scores - top).exp()
        sums = weights.sum(-1, keepdim=True)
        outs.append(torch.einsum("hnm,mhd->nhd", weights / sums, v[start:stop]))
        lses.append((sums.log() + top)[..., 0].T)
    return torch.cat(outs), torch.cat(lses)


def prepared(x: Tensor, weight: Tensor | None, rope: Rope | None) -> Tensor:
    if weight is not None:
        x = x / (x.square().sum(-1, keepdim=True) / x.shape[-1] + EPS).sqrt() * weight.double()
    if rope is None:
        return x
    cos, sin = (table.double()[:, None] for table in rope)
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    first = a * cos[..., :half] - b * sin[..., :half]
    second = b * cos[..., half:] + a * sin[..., half:]
    return torch.cat((first, second), dim=-1)


def error(found: Tensor, expected: Tensor) -> float:
    """Relative, in the Frobenius norm; 0 for empty tensors."""
    if not expected.numel():
        return 0.0
    found, expected = found.detach().double(), expected.detach().double()
    scale = expected.norm().clamp(min=1e-30)
    return float((found - expected).norm() / scale)


def log_error(found: Tensor, expected: Tensor) -> float:
    """Of logarithms, whose zero means nothing: as `error`, but relative to their size and 1."""
    offset = expected.detach().double().abs() + 1
    return error((found.detach().double() - expected.detach().double()) / offset + 1, torch.ones_like(offset))
