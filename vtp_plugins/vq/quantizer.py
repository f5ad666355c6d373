"""The protocol of quantisers, which bottlenecks build on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp_core.features import Tally
from vtp_core.ops import nearest_code, rotation_trick, straight_through
from vtp_core.ops.nearest_code_choice import SearchChoice

Through = Literal["straight", "rotation"]


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What a quantiser makes of N vectors.

    Attributes:
        vectors: (N, dim), the codes' vectors with a gradient to the input; NaN where the input is not finite.
        codes: (N, Q) int64; -1 where the input is not finite.
        aux: Loss terms, weighted: means over the vectors.
        tally: Statistics for `Quantizer.after_step`.
        report: Scalars to log.
    """

    vectors: Tensor
    codes: Tensor
    aux: Mapping[str, Tensor] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    report: Mapping[str, Tensor] = field(default_factory=dict)


class Quantizer(nn.Module):
    """Replaces vectors by codes. Built by `vtp_plugins.vq.build.build_quantizer`.

    Computes in float32 or wider, whatever autocast says. `forward` changes no state, waits for no device, and
    returns a tally in training only: what is frozen has no `after_step`.

    Attributes:
        dim: Width of the vectors.
        codebook_sizes: Codes of each of the Q codebooks.
        samples: Whether it asks for vectors in ``tally.rows["vectors"]`` (revival of dead codes).
    """

    dim: int
    codebook_sizes: tuple[int, ...]
    samples: bool = False

    def forward(self, x: Tensor) -> Quantized:
        """Quantises (N, dim)."""
        raise NotImplementedError

    def lookup(self, codes: Tensor) -> Tensor:
        """Vectors (..., dim) of codes (..., Q) int64; NaN for -1."""
        raise NotImplementedError

    def initialise(self, vectors: Tensor) -> None:
        """Sets the codebook from (N, dim) vectors of the data; quantisers without a codebook ignore it."""

    def before_step(self, steps: range) -> None:
        """Gets the range of steps that the next `after_step` covers, as `Bottleneck.before_step` does."""

    def after_step(self, tally: Tally, index: int) -> None:
        """Updates codebook and meters from the step's reduced tally, the same on all ranks."""


def wide(x: Tensor) -> Tensor:
    """The vectors in float32, or as they are if wider."""
    return x if x.dtype == torch.float64 else x.float()


def unit(x: Tensor) -> Tensor:
    """Vectors (N, D) of length 1; those that are not finite become NaN and get no gradient."""
    valid = finite(x)[:, None]
    return torch.where(valid, F.normalize(torch.where(valid, x, 0), dim=-1), torch.nan)


def finite(x: Tensor) -> Tensor:
    """(...,) bool, which vectors (..., D) are finite; a tenth of the time of ``x.isfinite().all(-1)``."""
    return (x.detach() * 0).sum(-1) == 0


def with_gradient(x: Tensor, codes: Tensor, through: Through) -> Tensor:
    """The codes with the gradient of straight-through or of the rotation trick to `x`."""
    return rotation_trick(x, codes) if through == "rotation" else straight_through(x, codes)


def nearest(x: Tensor, codebook: Tensor, search: SearchChoice | None, weight: Tensor | None = None) -> Tensor:
    """(N,) int64, the nearest code of each vector; -1 of those that are not finite."""
    if weight is None:
        index = nearest_code(x, codebook, implementation=search)[0]
    else:
        index = nearest_code(x, codebook, metric="weighted", weight=weight, implementation=search)[0]
    return torch.where(finite(x), index, -1)


def pick(codebook: Tensor, index: Tensor) -> Tensor:
    """Rows of a codebook (K, D); NaN for index -1."""
    # The gradient of an embedding is summed in a fixed order, that of indexing on several threads is not.
    rows = F.embedding(index.clamp(min=0), codebook)
    return rows + torch.where(index < 0, torch.nan, 0.0).to(rows.dtype).unsqueeze(-1)


def finite_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over the vectors (N, ...) that are valid (N,) bool; 0 if there is none."""
    kept = torch.where(valid.view(-1, *(1,) * (values.ndim - 1)), values, 0)
    return kept.sum() / (valid.sum() * values.shape[1:].numel()).clamp(min=1)


def mean_square(difference: Tensor, valid: Tensor) -> Tensor:
    """Mean square of (N, D) over the valid vectors; the others are NaN and get no gradient, not even NaN."""
    found: Tensor = _MeanSquare.apply(difference, valid)
    return found


def count_codes(index: Tensor, codes: int) -> Tensor:
    """(K,) float32, how often each code is in (N,) int64; -1 is left out. Does not wait for the device."""
    bucket = torch.where(index < 0, codes, index)
    counts = index.new_zeros(codes + 1).scatter_add_(0, bucket, torch.ones_like(bucket))
    return counts[:codes].float()


class _MeanSquare(torch.autograd.Function):
    """`mean_square` in three passes over the vectors, its gradient in one."""

    @staticmethod
    def forward(ctx: Any, difference: Tensor, valid: Tensor) -> Tensor:
        kept = difference.nan_to_num(0.0)
        count = (valid.sum() * difference.shape[-1]).clamp(min=1)
        ctx.save_for_backward(kept, count)
        return kept.square().sum() / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        kept, count = ctx.saved_tensors
        return kept * (2 * grads[0] / count), None
