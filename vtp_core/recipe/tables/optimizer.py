"""``[optimizer]`` and ``[ema]``. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from vtp_core.config import OptimizerOverrides, Table
from vtp_core.schedule import Fraction, NotNegative

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Table):
    """The optimiser of everything but critics."""

    use: Literal["adamw"] = "adamw"
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""
    lr: NotNegative
    """Learning rate, a number or a schedule."""
    weight_decay: NotNegative = 0.05
    """Decoupled weight decay of parameters with two or more dimensions, a number or a schedule."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates of the first and the second moment."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the second moment."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest gradient norm; larger gradients are scaled down. `inf` clips nothing."""
    clip_scope: Literal["global", "owner"] = "global"
    """One norm over all parameters, or one for each owner (encoder, bottleneck, decoder, each objective)."""
    owners: Mapping[str, OptimizerOverrides] = {}
    """Factors for `encoder`, `bottleneck` and `decoder`; an objective has its own `optimizer` table."""


class EmaConfig(Table):
    """Teachers: moving averages of the networks that objectives ask for, and of `networks`."""

    momentum: Fraction = 0.996
    """Fraction of the old average that each step keeps, a number or a schedule."""
    networks: tuple[str, ...] = ()
    """Further networks to average, such as `tokenizer.decoder`."""
    momenta: Mapping[str, Fraction] = {}
    """Momentum of single networks, by name."""
