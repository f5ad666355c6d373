"""Distillation over prototypes, used by `dino` and `mim` with different rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vtp_core.errors import UsageError
from vtp_core.features import Features, Latent, Tally
from vtp_core.objective import Objective
from vtp_core.parameters import Dims, ParamRule
from vtp_core.schedule import StepSchedule, value_at
from vtp_core.step import Step
from vtp_plugins.dino.config import PrototypeConfig
from vtp_plugins.dino.head import Head, Prototypes
from vtp_plugins.dino.loss import streamed_cross_entropy
from vtp_plugins.dino.sinkhorn import Assignment, sinkhorn


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """Result of `distil`.

    Attributes:
        total: Sum of the weighted losses, a scalar with gradient.
        losses: (B, S) loss of each student row.
        entropy: (B, G) entropy of each target.
        tally: Sum and number of the teacher's scores, for `after_step`; None for Sinkhorn-Knopp.
    """

    total: Tensor
    losses: Tensor
    entropy: Tensor
    tally: Tally | None


def distil(
    step: Step,
    config: PrototypeConfig,
    head: nn.Module,
    prototypes: nn.Module,
    student: Tensor,
    teacher: Tensor,
    *,
    mixture: Tensor,
    weights: Tensor,
    center: Tensor | None,
) -> Distilled:
    """Cross-entropy of student rows against mixtures of teacher rows.

    Args:
        step: The step.
        config: Temperatures and kind of targets.
        head: The student's `Head`; it has an EMA copy.
        prototypes: The student's `Prototypes`; they have EMA copies.
        student: (B, S, D) tokens.
        teacher: (B, G, D) tokens of the teacher; B may differ between ranks and be 0.
        mixture: (S, G), weight of each teacher row in a student row's target.
        weights: (B, S), factor on each row's loss.
        center: (K,) running mean for centering; None for Sinkhorn-Knopp.
    """
    assert isinstance(head, Head) and isinstance(prototypes, Prototypes)
    if student.shape[-1] != head.width:
        raise UsageError(
            f"the head takes tokens of width {head.width}, got {student.shape[-1]}: objectives that share a "
            "head need the same `bottleneck`"
        )
    temperature = value_at(config.teacher_temperature, step.index, step.total)
    numbers = prototypes.numbers()
    with torch.no_grad():
        flat = step.teacher.own(head)(teacher.flatten(0, 1))
        others = step.teacher.own(prototypes)(numbers)
    dtype = product_dtype(flat)
    if center is None:
        others = others.to(dtype)
        over_ranks = None if step.world_size == 1 else lambda x: log_sum(step, x)
        targets = sinkhorn(flat, others, temperature, over_ranks, dtype=dtype)
    elif len(center) != len(others):
        raise UsageError(
            f"centering over {len(center)} prototypes, but the shared head has {len(others)}: "
            f"set prototypes = {len(others)} in the table of {config.use!r} too"
        )
    else:
        targets = Assignment(offset=-center.to(flat.dtype) / temperature, normalizer=None)
    projected = step.call(head, student.flatten(0, 1))
    total, losses, entropy = streamed_cross_entropy(
        projected.unflatten(0, student.shape[:2]),
        step.call(prototypes, numbers),
        flat.unflatten(0, teacher.shape[:2]),
        others,
        offset=targets.offset,
        mixture=mixture.to(flat),
        weights=weights.to(flat),
        temperatures=(config.student_temperature, temperature),
        dtype=dtype,
        normalizer=None if targets.normalizer is None else targets.normalizer.view(teacher.shape[:2]),
    )
    counted = None if center is None else count_scores(flat, others)
    return Distilled(total=total, losses=losses, entropy=entropy, tally=counted)


def product_dtype(x: Tensor) -> torch.dtype:
    """Dtype of matrix products: autocast's if it is on, else that of `x`."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


@torch.no_grad()
def log_sum(step: Step, x: Tensor) -> Tensor:
    """Logarithm of the sum over ranks of exp(x), (K,); entries may be -inf."""
    greatest = step.gather(x.max().reshape(1)).max()
    shift = torch.where(greatest.isfinite(), greatest, torch.zeros_like(greatest)).double()
    total = step.sum((x.double() - shift).exp())
    return (total.clamp_min(torch.finfo(total.dtype).tiny).log() + shift).to(x.dtype)


@torch.no_grad()
def count_scores(teacher: Tensor, prototypes: Tensor) -> Tally:
    """Sum (K,) and number (1,) of the scores of teacher rows (n, E)."""
    with torch.autocast(teacher.device.type, enabled=False):
        return Tally(
            sums={"scores": prototypes @ teacher.sum(0), "rows": teacher.new_full((1,), len(teacher))}
        )


class PrototypeObjective(Objective):
    """What `dino` and `mim` have in common: tokens, head, prototypes and the running mean of scores.

    Args:
        config: Its table.
        dims: Sizes of the networks.
        own_head: Whether it has a head and prototypes of its own.
    """

    config: PrototypeConfig
    centre: Tensor | None

    def __init__(self, config: PrototypeConfig, dims: Dims, *, own_head: bool = True) -> None:
        super().__init__(config, dims)
        self.teachers = ("tokenizer.encoder", *(["tokenizer.bottleneck"] if config.bottleneck else []))
        if own_head:
            self.shares = ("head", "prototypes")
            self.teachers = (*self.shares, *self.teachers)
            width = dims.channels if config.bottleneck else dims.width
            self.head = Head(width, config.head_hidden, config.head_width, config.head_layers)
            self.prototypes = Prototypes(
                config.prototypes, config.head_width, fixed_scales=config.fixed_scales
            )
        centered = config.targets == "centering"
        self.register_buffer("centre", torch.zeros(config.prototypes) if centered else None)

    def tokens(self, step: Step, *, masked: bool) -> tuple[Features | Latent, Features | Latent]:
        """The student's and the teacher's tokens of the view, from the encoder or the bottleneck."""
        view = self.config.view
        if self.config.bottleneck:
            return step.tokenize(view, masked=masked), step.teacher.tokenize(view)
        return step.encode(view, masked=masked), step.teacher.encode(view)

    def rules(self) -> Sequence[ParamRule]:
        """A learning rate of 0 for its own prototypes in the first steps (DINO)."""
        if not (self.shares and self.config.freeze_prototypes):
            return ()
        schedule = StepSchedule(values=(0.0, 1.0), at_steps=(self.config.freeze_prototypes,))
        return (ParamRule(pattern="prototypes.*", lr=schedule),)

    @torch.no_grad()
    def after_step(self, tally: Tally, index: int) -> None:
        """Updates the running mean of the scores, if the step had rows."""
        if self.centre is not None:
            rows, momentum = tally.sums["rows"], self.config.center_momentum
            mean = (tally.sums["scores"] / rows.clamp_min(1)).to(self.centre)
            moved = self.centre * momentum + mean * (1 - momentum)
            self.centre.copy_(torch.where(rows > 0, moved, self.centre))
