"""Signs that an adversarial training has gone wrong, told from single steps and counted over steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vtp_plugins.gan.config import GanConfig

SIGNS = ("winning", "blind", "loud", "limited")
"""What is counted: the critic is right almost always, or no more often than chance; its logits are huge; the
adaptive weight stands at its limit."""

CHANCE = 0.51
"""Accuracy up to which a critic counts as blind; one whose logits are constant has 0.5, or 0 by pairs."""


def critic_signs(config: GanConfig, accuracy: Tensor, size: Tensor, *, exposed: bool) -> Tensor:
    """Which signs a critic's step shows, (3,) bool: winning, blind, loud.

    Args:
        config: The limits.
        accuracy: Share of right judgements, a scalar.
        size: Mean size of the logits, a scalar.
        exposed: Whether the decoder sees the critic yet; before that a critic may still be blind.
    """
    return torch.stack(
        [
            accuracy > config.alarm_accuracy,
            (accuracy <= CHANCE) & exposed,
            ~(size <= config.alarm_logits),
        ]
    )


def counted(steps: Tensor, shown: Tensor) -> Tensor:
    """Steps in a row that showed each sign, given those before and whether this step shows it."""
    return (steps + 1) * shown


def advice(config: GanConfig, steps: Sequence[int]) -> list[str]:
    """A line for each sign whose alarm is due at this step.

    Args:
        config: The limits.
        steps: Steps in a row that showed each of `SIGNS`.
    """
    during = f"for {config.alarm_steps} steps"
    lines = {
        "winning": f"over {100 * config.alarm_accuracy:.0f} % of the critic's judgements were right "
        f"{during}; "
        "the decoder learns little from it. Lower critic_optimizer.lr, or set r1, lecam or augment",
        "blind": f"the critic judged no better than chance {during}; the decoder learns nothing from it. "
        "Raise critic_optimizer.lr, lower r1 or lecam, or give the critic more filters",
        "loud": f"the critic's logits were above {config.alarm_logits:g} in the mean {during}; they may go "
        "on growing. Set r1 or lecam, or lower critic_optimizer.lr",
        "limited": f"the adaptive weight stood at its limit {config.limit:g} {during}: the critic's gradient "
        "at the decoder is almost nothing. Lower limit, or set r1 to smooth the critic",
    }
    return [lines[sign] for sign, count in zip(SIGNS, steps, strict=True) if count == config.alarm_steps]
