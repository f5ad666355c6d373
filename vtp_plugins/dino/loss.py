"""Cross-entropy between teacher and student distributions over many prototypes, without all their scores.

Scores, (rows, K) with K prototypes, are made block by block; loss and gradients come out of one sweep in the
forward, and backward only multiplies. No more than a few blocks of scores exist at a time, whatever the rows.

Shapes: B samples, S student rows and G teacher rows a sample, E width of the unit vectors, K prototypes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCK_ELEMENTS = 1 << 22
"""Scores of one block: 16 MiB in float32."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """How scores are cut into blocks.

    Attributes:
        rows: Rows of a block.
        columns: Prototypes of a block; below K, scores are made twice (normaliser, then gradient).
    """

    rows: int
    columns: int

    @classmethod
    def whole_rows(cls, prototypes: int) -> Blocks:
        """Blocks over all prototypes: scores are made once."""
        return cls(rows=max(BLOCK_ELEMENTS // max(prototypes, 1), 1), columns=prototypes)

    @classmethod
    def choose(cls, prototypes: int, dtype: torch.dtype) -> Blocks:
        """Whole rows in float32 and wider; tiles that stay in a cache where products are cheap (bfloat16)."""
        if dtype.itemsize >= 4 or prototypes <= 4096:
            return cls.whole_rows(prototypes)
        return cls(rows=256, columns=2048)


def blocked(length: int, block: int) -> Iterator[slice]:
    """Slices of at most `block` that cover 0 .. length - 1."""
    for start in range(0, length, block):
        yield slice(start, min(start + block, length))


def narrowed(rows: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    """Rows over the temperature, in the dtype that products are made in."""
    return (rows / temperature).to(dtype)


def scores(rows: Tensor, prototypes: Tensor, offset: Tensor | None = None) -> Tensor:
    """Scores (n, K), float32 or wider: ``rows @ prototypes.T + offset``.

    Args:
        rows: (n, E), as `narrowed` makes them.
        prototypes: (K, E), same dtype.
        offset: (K,), float32 or wider, or None.
    """
    product = rows @ prototypes.T
    if offset is not None:
        return product.add_(offset) if product.dtype == offset.dtype else product + offset
    return product.to(torch.promote_types(product.dtype, torch.float32))


class StreamedCrossEntropy(torch.autograd.Function):
    """See `streamed_cross_entropy`."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        prototypes: Tensor,
        teacher: Tensor,
        teacher_prototypes: Tensor,
        offset: Tensor,
        mixture: Tensor,
        weights: Tensor,
        temperatures: tuple[float, float],
        dtype: torch.dtype,
        blocks: Blocks,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss and gradients, block by block."""
        samples, per_sample, width = student.shape
        own, other = prototypes.to(dtype), teacher_prototypes.to(dtype)
        losses = student.new_zeros(samples, per_sample)
        entropy = student.new_zeros(samples, teacher.shape[1])
        gradient, gradient_prototypes = torch.zeros_like(student), torch.zeros_like(prototypes)
        for rows in blocked(samples, max(blocks.rows // max(per_sample, teacher.shape[1]), 1)):
            flat = student[rows].reshape(-1, width)
            scale = weights[rows].reshape(-1, 1) / temperatures[0]
            sweep = _Sweep(
                narrowed(flat, temperatures[0], dtype),
                narrowed(teacher[rows].reshape(-1, width), temperatures[1], dtype),
                (flat * scale).to(dtype),
                mixture,
            )
            sweep.run(own, other, offset, blocks.columns, gradient_prototypes)
            losses[rows] = sweep.losses().view(-1, per_sample)
            entropy[rows] = sweep.entropy.view(-1, teacher.shape[1])
            gradient[rows] = (sweep.gradient * scale).view(-1, per_sample, width)
        ctx.save_for_backward(gradient, gradient_prototypes)
        ctx.mark_non_differentiable(losses, entropy)
        return (weights * losses).sum(), losses, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients made in the forward, times the one that comes in."""
        gradient, gradient_prototypes = ctx.saved_tensors
        first = gradient * upstream[0] if ctx.needs_input_grad[0] else None
        second = gradient_prototypes * upstream[0] if ctx.needs_input_grad[1] else None
        return first, second, *(None,) * 8


class _Sweep:
    """One block of samples against all prototypes.

    Args:
        student: (B * S, E) rows over their temperature.
        teacher: (B * G, E) rows over theirs.
        scaled: (B * S, E), what the prototypes' gradient is a product with.
        mixture: (S, G).
    """

    def __init__(self, student: Tensor, teacher: Tensor, scaled: Tensor, mixture: Tensor) -> None:
        self.student, self.teacher, self.scaled, self.mixture = student, teacher, scaled, mixture
        self.mass = mixture.sum(1).repeat(len(student) // len(mixture))[:, None]
        self.entropy = mixture.new_zeros(len(teacher))
        self.gradient = mixture.new_zeros(student.shape)
        self._losses = mixture.new_zeros(len(student))

    def run(self, own: Tensor, other: Tensor, offset: Tensor, columns: int, into: Tensor) -> None:
        """Sums over prototypes; adds to the prototypes' gradient in `into`."""
        if columns >= len(own):
            self._rows_at_once(own, other, offset, into)
        else:
            self._tiles(own, other, offset, columns, into)

    def losses(self) -> Tensor:
        """Cross-entropy of each student row against its targets, added over these."""
        return self._losses

    def _rows_at_once(self, own: Tensor, other: Tensor, offset: Tensor, into: Tensor) -> None:
        theirs = scores(self.teacher, other, offset)
        target, total = _exponentials(theirs)
        self.entropy = total.log().squeeze(1) - theirs.mul_(target).sum(1) / total.squeeze(1)
        del theirs
        target = self._mix(target.div_(total))
        mine = scores(self.student, own)
        mine.sub_(mine.amax(1, keepdim=True))
        agreement = (target * mine).sum(1)
        total = mine.exp_().sum(1, keepdim=True)
        self._losses = (self.mass * total.log()).squeeze(1) - agreement
        self._push(mine.mul_(self.mass / total).sub_(target), own, into)

    def _tiles(self, own: Tensor, other: Tensor, offset: Tensor, columns: int, into: Tensor) -> None:
        mine_log = self.mass.new_full((len(self.student), 1), -torch.inf)
        theirs_log = self.mass.new_full((len(self.teacher), 1), -torch.inf)
        for tile in blocked(len(own), columns):
            mine_log = _grown(mine_log, scores(self.student, own[tile]))
            theirs_log = _grown(theirs_log, scores(self.teacher, other[tile], offset[tile]))
        for tile in blocked(len(own), columns):
            theirs = scores(self.teacher, other[tile], offset[tile]).sub_(theirs_log)
            target = theirs.exp()
            self.entropy -= theirs.mul_(target).sum(1)
            target = self._mix(target)
            mine = scores(self.student, own[tile]).sub_(mine_log)
            self._losses -= (target * mine).sum(1)
            self._push(mine.exp_().mul_(self.mass).sub_(target), own[tile], into[tile])

    def _push(self, slope: Tensor, own: Tensor, into: Tensor) -> None:
        """Adds what the slope (rows, K) of the scores sends to rows and to prototypes."""
        narrow = slope.to(own.dtype)
        if own.dtype == into.dtype:
            self.gradient.addmm_(narrow, own)
            into.addmm_(narrow.T, self.scaled)
        else:
            self.gradient += narrow @ own
            into += narrow.T @ self.scaled

    def _mix(self, target: Tensor) -> Tensor:
        if self.mixture.numel() == 1:
            return target.mul_(self.mixture.view(()))
        return torch.matmul(self.mixture, target.unflatten(0, (-1, self.mixture.shape[1]))).flatten(0, 1)


def _exponentials(block: Tensor) -> tuple[Tensor, Tensor]:
    """Exponentials of `block` less its rows' maxima (taken off in place), and their sums (n, 1)."""
    exponentials = block.sub_(block.amax(1, keepdim=True)).exp()
    return exponentials, exponentials.sum(1, keepdim=True)


def _grown(logarithm: Tensor, block: Tensor) -> Tensor:
    """Logarithm of a sum of exponentials (n, 1) with those of `block` added, which is used up."""
    greatest = torch.maximum(logarithm, block.amax(1, keepdim=True))
    added = block.sub_(greatest).exp_().sum(1, keepdim=True)
    return ((logarithm - greatest).exp_() + added).log_() + greatest


def streamed_cross_entropy(
    student: Tensor,
    prototypes: Tensor,
    teacher: Tensor,
    teacher_prototypes: Tensor,
    *,
    offset: Tensor,
    mixture: Tensor,
    weights: Tensor,
    temperatures: tuple[float, float],
    dtype: torch.dtype,
    blocks: Blocks | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted cross-entropy of softmaxes over prototypes, student rows against mixed teacher rows.

    A row's target is ``sum_g mixture[s, g] * softmax(teacher[g] @ teacher_prototypes.T / Tt + offset)``: both
    centring and Sinkhorn targets have this form. Differentiable once, in `student` and `prototypes`.

    Args:
        student: (B, S, E) unit vectors, float32 or wider.
        prototypes: (K, E), same dtype.
        teacher: (B, G, E) unit vectors, same dtype, no gradient.
        teacher_prototypes: (K, E), same dtype, no gradient.
        offset: (K,) added to the teacher's scores.
        mixture: (S, G), share of each teacher row in a student row's target; a row may add up to any mass.
        weights: (B, S), factor on each student row's loss.
        temperatures: Student's and teacher's.
        dtype: What products are made in; sums stay in the dtype of `student`.
        blocks: How scores are cut; chosen by size and dtype if None.

    Returns:
        The sum of weighted losses, a scalar; each student row's loss (B, S) and each target's entropy (B, G),
        both without gradient.

    Source:
        Caron et al. 2021 (DINO), eq. 1 to 3.
    """
    with torch.autocast(student.device.type, enabled=False):
        total, losses, entropy = StreamedCrossEntropy.apply(
            student,
            prototypes,
            teacher.detach(),
            teacher_prototypes.detach(),
            offset.detach(),
            mixture,
            weights.detach(),
            temperatures,
            dtype,
            Blocks.choose(len(prototypes), dtype) if blocks is None else blocks,
        )
    return total, losses, entropy
