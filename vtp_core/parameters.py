"""What components say of their parameters by name, and the sizes they agree on. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from vtp_core.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from vtp_core.pixels import ValueRange

Resampler: TypeAlias = "Callable[[Tensor, Sequence[int]], Tensor]"
"""Fits a tensor of another size to a shape, as the functions of `vtp_core.ops.resampling` do."""


@dataclass(frozen=True, kw_only=True)
class ParamRule:
    """Multipliers for the parameters whose name matches a pattern.

    Attributes:
        pattern: Shell pattern on the name below the owner, such as ``block.0.*`` or ``*.bias``.
        lr: Factor on the owner's learning rate; 0 freezes. A schedule makes it depend on the step.
        decay: Factor on the weight decay; None leaves the default: 1 for parameters of two or more
            dimensions, 0 for the rest (biases, norms).
        clamp: Bounds to which the values are clamped after each optimiser step.
    """

    pattern: str
    lr: float | Schedule = 1.0
    decay: float | None = None
    clamp: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Dims:
    """Sizes of the networks; each component gets those that earlier ones fixed.

    Attributes:
        width: Encoder width D.
        patch: Encoder patch side in pixels.
        depth: Encoder blocks.
        has_cls: Whether the encoder has a class token.
        tap_widths: Widths of the encoder's taps by block; empty: all `width`.
        codebook_sizes: Codes of each codebook of the bottleneck; empty: the latent is continuous.
        channels: Latent channels d; 0 while the bottleneck is being built.
        value_range: The decoder's range; None until it is built.
    """

    width: int
    patch: int
    depth: int
    has_cls: bool
    channels: int = 0
    value_range: ValueRange | None = None
    tap_widths: tuple[int, ...] = ()
    codebook_sizes: tuple[int, ...] = ()

    def tap_width(self, layer: int) -> int:
        """Width of the tokens of a tapped block."""
        return self.tap_widths[layer] if layer < len(self.tap_widths) else self.width
