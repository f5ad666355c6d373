"""Cross-entropy between teacher and student distributions over many prototypes, in bounded memory.

Scores (rows, K) are computed in tiles; the forward pass computes loss and gradients, the backward pass only
scales them. Only a few tiles of scores exist at a time, whatever the number of rows.

Shapes: B samples, S student rows and G teacher rows per sample, E width of the unit vectors, K prototypes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vtp_plugins.dino.scores import BITS, Scores, Sums, blocked, narrowed, tile_elements, times

WHOLE = 4096
"""Up to this number of prototypes there is a single tile, whose scores are computed once."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Size of the tiles of scores.

    Attributes:
        rows: Rows of a tile.
        columns: Prototypes of a tile; below K, scores are computed twice (normalizer, then gradient).
    """

    rows: int
    columns: int

    @classmethod
    def choose(cls, prototypes: int, rows: int, elements: int) -> Blocks:
        """All columns for few prototypes; else up to 1,024 rows, so that prototypes are seldom read.

        Args:
            prototypes: Number K.
            rows: Number of all rows.
            elements: Most scores of a tile.
        """
        if prototypes <= WHOLE:
            return cls(rows=elements // max(prototypes, 256), columns=prototypes)
        together = max(min(rows, 1024), 64)
        return cls(rows=together, columns=elements // together)


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
        normalizer: Tensor | None,
        mixture: Tensor,
        weights: Tensor,
        temperatures: tuple[float, float],
        dtype: torch.dtype,
        blocks: Blocks,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Computes loss and gradients, block by block."""
        samples, per_sample, width = student.shape
        own, other, offset = prototypes.to(dtype), teacher_prototypes.to(dtype), offset * BITS
        losses = student.new_zeros(samples, per_sample)
        entropy = student.new_zeros(samples, teacher.shape[1])
        gradient = torch.empty_like(student)
        gradient_prototypes = torch.empty_like(prototypes) if samples else torch.zeros_like(prototypes)
        tiles = list(blocked(len(own), blocks.columns))
        for part in blocked(samples, max(blocks.rows // max(per_sample, teacher.shape[1]), 1)):
            flat, taught = student[part].reshape(-1, width), teacher[part].reshape(-1, width)
            scale = weights[part].reshape(-1, 1) / temperatures[0]
            sweep = _Sweep(
                Scores(narrowed(flat, temperatures[0], dtype), own, flat, tiles),
                Scores(narrowed(taught, temperatures[1], dtype), other, flat, tiles, offset),
                mixture,
                None if normalizer is None else normalizer[part].reshape(-1, 1) * BITS,
                tiles,
            )
            product = sweep.slopes(own, (flat * -scale).to(dtype), gradient_prototypes, add=part.start > 0)
            losses[part] = sweep.losses().view(-1, per_sample)
            entropy[part] = sweep.entropy().view(-1, teacher.shape[1])
            gradient[part] = (product * -scale).view(-1, per_sample, width)
        ctx.save_for_backward(gradient, gradient_prototypes)
        ctx.mark_non_differentiable(losses, entropy)
        return (weights * losses).sum(), losses, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Scales the gradients of the forward pass by the incoming one."""
        gradient, gradient_prototypes = ctx.saved_tensors
        first = gradient * upstream[0] if ctx.needs_input_grad[0] else None
        second = gradient_prototypes * upstream[0] if ctx.needs_input_grad[1] else None
        return first, second, *(None,) * 9


class _Sweep:
    """One block of samples against all prototypes: first the softmax sums, then the gradients.

    Args:
        student: Scores of (B * S, E) rows.
        teacher: Scores of (B * G, E) rows.
        mixture: (S, G).
        normalizer: (B * G, 1), logarithm of the teacher's sums in bits, if known.
        tiles: Of prototypes.
    """

    def __init__(
        self,
        student: Scores,
        teacher: Scores,
        mixture: Tensor,
        normalizer: Tensor | None,
        tiles: list[slice],
    ) -> None:
        self.student, self.teacher, self.mixture, self.tiles = student, teacher, mixture, tiles
        self.mass = mixture.sum(1).repeat(student.rows // len(mixture))[:, None]
        # Scores of unit vectors rarely need a shift. Checking that would synchronise an accelerator, so there
        # they are always shifted.
        usable = mixture.device.type == "cpu" and self._add_up(normalizer, shifted=False)
        if not usable:
            self._add_up(normalizer, shifted=True)
        self._agreement = mixture.new_zeros(student.rows)
        self._certainty = mixture.new_zeros(teacher.rows)

    def _add_up(self, normalizer: Tensor | None, *, shifted: bool) -> bool:
        """Sums over all prototypes; returns whether they are in range."""
        own = Sums.empty(self.student.rows, self.mixture, shifted=shifted)
        if normalizer is None:
            other = Sums.empty(self.teacher.rows, self.mixture, shifted=shifted)
        else:
            other = Sums.known(normalizer, shifted=shifted)
        for tile in self.tiles:
            mine = self.student.tile(tile)
            own.add(mine, self.student.spare(mine.shape[1]))
            if normalizer is None:
                theirs = self.teacher.tile(tile)
                other.add(theirs, self.teacher.spare(theirs.shape[1]))
        self.student_sums, self.teacher_sums = own, other
        return own.usable() and other.usable()

    def slopes(self, own: Tensor, scaled: Tensor, into: Tensor, *, add: bool) -> Tensor:
        """Gradient with respect to the scores (target - softmax), multiplied with both of their factors.

        Args:
            own: (K, E), the student's prototypes.
            scaled: (B * S, E), factor for the gradient of the prototypes.
            into: (K, E), receives the gradient of the prototypes.
            add: Whether it is added to the content of `into`.

        Returns:
            (B * S, E), product with the prototypes.
        """
        shares = self.mass / self.student_sums.total
        product = into.new_zeros(scaled.shape)
        for tile in self.tiles:
            target = self._target(self.teacher.tile(tile))
            mine = self.student_sums.relative(self.student.tile(tile))
            self._agreement += torch.mul(target, mine, out=self.student.spare(mine.shape[1])).sum(1)
            slope = self.student.narrow(target.addcmul_(mine.exp2_(), shares, value=-1))
            product += times(slope, own[tile].T)
            if add:
                into[tile] += times(slope.T, scaled.T)
            else:
                into[tile] = times(slope.T, scaled.T)
        return product

    def losses(self) -> Tensor:
        """Cross-entropy of each student row against its mixture of targets, in nats."""
        return ((self.mass * self.student_sums.total.log2()).squeeze(1) - self._agreement) / BITS

    def entropy(self) -> Tensor:
        """Entropy of each teacher row's distribution, in nats."""
        total = self.teacher_sums.total.squeeze(1)
        return (total.log2() - self._certainty / total) / BITS

    def _target(self, theirs: Tensor) -> Tensor:
        """Targets (B * S, c) from a tile of the teacher's scores (B * G, c), which is overwritten."""
        columns = theirs.shape[1]
        theirs = self.teacher_sums.relative(theirs)
        target = torch.exp2(theirs, out=self.teacher.spare(columns))
        self._certainty += theirs.mul_(target).sum(1)
        if self.mixture.numel() == 1:
            return target.mul_(self.mixture / self.teacher_sums.total)
        target /= self.teacher_sums.total
        mixed = self.student.spare(columns, 1)
        samples = target.unflatten(0, (-1, self.mixture.shape[1]))
        torch.bmm(
            self.mixture.expand(len(samples), -1, -1), samples, out=mixed.view(len(samples), -1, columns)
        )
        return mixed


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
    normalizer: Tensor | None = None,
    blocks: Blocks | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted cross-entropy of softmaxes over prototypes, student rows against mixtures of teacher rows.

    The target of row s is ``sum_g mixture[s, g] * softmax(teacher[g] @ teacher_prototypes.T / Tt + offset)``;
    centering and Sinkhorn targets have this form. Differentiable once, in `student` and `prototypes`.

    Args:
        student: (B, S, E) unit vectors, float32 or wider.
        prototypes: (K, E), same dtype.
        teacher: (B, G, E) unit vectors, same dtype, no gradient.
        teacher_prototypes: (K, E), same dtype or `dtype`, no gradient.
        offset: (K,) added to the teacher's scores.
        mixture: (S, G), weight of each teacher row in a student row's target; rows may have any sum.
        weights: (B, S), factor on each student row's loss.
        temperatures: Student's and teacher's.
        dtype: Dtype of matrix products; sums have the dtype of `student`.
        normalizer: (B, G) logsumexp of each teacher row's scores with offset, if known; saves a pass.
        blocks: Size of the tiles; None chooses it by size and device.

    Returns:
        The sum of weighted losses, a scalar; each student row's loss (B, S) and each target's entropy (B, G),
        both without gradient.

    Source:
        Caron et al. 2021 (DINO), eq. 1 to 3.
    """
    if blocks is None:
        rows = len(student) * max(student.shape[1], teacher.shape[1])
        blocks = Blocks.choose(len(prototypes), rows, tile_elements(student.device))
    with torch.autocast(student.device.type, enabled=False):
        total, losses, entropy = StreamedCrossEntropy.apply(
            student,
            prototypes,
            teacher.detach(),
            teacher_prototypes.detach(),
            offset.detach(),
            None if normalizer is None else normalizer.detach(),
            mixture,
            weights.detach(),
            temperatures,
            dtype,
            blocks,
        )
    return total, losses, entropy
