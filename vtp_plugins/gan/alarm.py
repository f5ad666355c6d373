"""Detects failing adversarial training by signs that persist over many steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vtp_plugins.gan.config import GanConfig

SIGNS = ("winning", "blind", "loud", "limited")
"""Signs: the critic is almost always right, or no better than chance; its logits diverge; the adaptive weight
is at its limit."""

CHANCE = 0.51
"""Accuracy up to which a critic counts as blind; constant logits give 0.5, or 0 in pairs."""


def critic_signs(config: GanConfig, accuracy: Tensor, size: Tensor, *, exposed: bool) -> Tensor:
    """The signs of one step, (3,) bool: winning, blind, loud.

    Args:
        config: The limits.
        accuracy: Fraction of right predictions, a scalar.
        size: Mean absolute logit, a scalar.
        exposed: Whether the decoder's loss has started; before that blindness is no alarm.
    """
    return torch.stack(
        [
            accuracy > config.alarm_accuracy,
            (accuracy <= CHANCE) & exposed,
            ~(size <= config.alarm_logits),
        ]
    )


def counted(steps: Tensor, shown: Tensor) -> Tensor:
    """Consecutive steps with each sign, given the previous counts and this step's signs."""
    return (steps + 1) * shown


def advice(config: GanConfig, steps: Sequence[int]) -> list[str]:
    """One line of advice for each sign that reaches its limit at this step.

    Args:
        config: The limits.
        steps: Consecutive steps with each of `SIGNS`.
    """
    during = f"for {config.alarm_steps} steps"
    lines = {
        "winning": f"the critic was right in over {100 * config.alarm_accuracy:.0f} % {during}; the decoder "
        "learns little from it. Lower critic_optimizer.lr, or set r1, lecam or augment",
        "blind": f"the critic was no better than chance {during}; the decoder learns nothing from it. "
        "Raise critic_optimizer.lr, lower r1 or lecam, or give the critic more filters",
        "loud": f"the critic's mean absolute logit was above {config.alarm_logits:g} {during} and may grow "
        "further. Set r1 or lecam, or lower critic_optimizer.lr",
        "limited": f"the adaptive weight was at its limit {config.limit:g} {during}: the critic's gradient "
        "at the decoder is close to zero. Lower limit, or set r1 to smooth the critic",
    }
    return [lines[sign] for sign, count in zip(SIGNS, steps, strict=True) if count == config.alarm_steps]
