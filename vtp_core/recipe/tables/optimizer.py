"""``[optimizer]`` and ``[ema]``. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from vtp_core.config import KeyHistory, OptimizerConfig, Table
from vtp_core.schedule import Fraction

Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamWConfig(OptimizerConfig):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), the default of ``[optimizer]``."""

    key_history: ClassVar[KeyHistory] = KeyHistory(added={"use": "adamw"})

    use: str = "adamw"
    """Algorithm; default: `adamw`, the core's own."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates of the first and the second moment."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the second moment."""


class EmaConfig(Table):
    """Teachers: moving averages of the networks that objectives ask for, and of `networks`."""

    momentum: Fraction = 0.996
    """Fraction of the old average that each step keeps, a number or a schedule."""
    networks: tuple[str, ...] = ()
    """Further networks to average, such as `tokenizer.decoder`."""
    momenta: Mapping[str, Fraction] = {}
    """Momentum of single networks, by name."""
