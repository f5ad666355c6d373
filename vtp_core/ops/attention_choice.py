"""Which implementation of an operator runs: by name, or the first that suits the case at hand.

The choice is an object that the recipe's ``[kernels]`` table makes and hands to the modules that use the
operator; nothing is chosen or remembered at module level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vtp_core.errors import UsageError


class Rope(NamedTuple):
    """Rotary tables of P positions.

    Attributes:
        cos: (P, d) of any floating dtype: the rotation is done in it.
        sin: (P, d), same dtype.
    """

    cos: Tensor
    sin: Tensor


class RunAttention(Protocol):
    """An implementation of the whole contract of `vtp_core.ops.attention.vit_attention`."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        q_norm: Tensor | None,
        k_norm: Tensor | None,
        rope: Rope | None,
        cu_seqlens: Tensor | None,
        scale: float,
        return_lse: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Output and, if asked for, log-sum-exp; arguments were checked before."""
        ...


@dataclass(frozen=True, kw_only=True)
class AttentionCase:
    """What an implementation may decide on.

    Whether a gradient is wanted is left out on purpose: a chunk that is run again for its backward must
    meet the implementation of its first run.

    Attributes:
        device: Device type, such as ``"cpu"``.
        dtype: Dtype of q, k and v.
        tokens: Tokens of the longest sequence.
        width: Head width d.
        packed: Whether the layout is packed (`cu_seqlens`).
        lse: Whether the log-sum-exp is asked for.
    """

    device: str
    dtype: torch.dtype
    tokens: int
    width: int
    packed: bool
    lse: bool


@dataclass(frozen=True, kw_only=True)
class AttentionKernel:
    """One implementation of `vit_attention`.

    Attributes:
        name: What a recipe calls it.
        run: The implementation.
        refuses: Why it can't run a case, or None if it can.
        suits: Whether ``auto`` should take it for a case that it can run.
    """

    name: str
    run: RunAttention
    refuses: Callable[[AttentionCase], str | None]
    suits: Callable[[AttentionCase], bool]


@dataclass(frozen=True)
class AttentionChoice:
    """Implementations in order of preference: one if the recipe named it, else all for ``auto``."""

    kernels: tuple[AttentionKernel, ...]

    def pick(self, case: AttentionCase) -> AttentionKernel:
        """The first implementation that can run the case and, if there is a choice, suits it.

        Raises:
            UsageError: None can run it; says why for each.
        """
        reasons = []
        for kernel in self.kernels:
            reason = kernel.refuses(case)
            if reason is not None:
                reasons.append(f"{kernel.name} {reason}")
            elif len(self.kernels) == 1 or kernel.suits(case):
                return kernel
        why = "; ".join(reasons)
        raise UsageError(f'attention: no implementation fits ({why}); use [kernels] attention = "auto"')


def choose(name: str, kernels: Sequence[AttentionKernel]) -> AttentionChoice:
    """The choice a recipe makes by `name`.

    Args:
        name: ``"auto"`` or the name of one of `kernels`.
        kernels: What there is, in order of preference.

    Raises:
        UsageError: There is no such implementation.
    """
    if name == "auto":
        return AttentionChoice(tuple(kernels))
    named = tuple(kernel for kernel in kernels if kernel.name == name)
    if not named:
        known = ", ".join(["auto", *(kernel.name for kernel in kernels)])
        raise UsageError(f'[kernels] attention = "{name}": unknown; known: {known}')
    return AttentionChoice(named[:1])
