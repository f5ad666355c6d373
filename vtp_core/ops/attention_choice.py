"""Implementations of attention: their cases, their signature and the choice among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vtp_core.ops.choice import Choice, Kernel


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
    """A case of attention: what the choice of an implementation may depend on.

    It must not depend on whether a gradient is needed: a chunk that is recomputed in the backward must use
    the same implementation as in its first run.

    Attributes:
        device: Device type, such as ``"cpu"``.
        dtype: Dtype of q, k and v.
        tokens: Tokens of the longest sequence.
        width: Head width d.
        packed: Whether the layout is packed (`cu_seqlens`).
        lse: Whether the log-sum-exp is returned.
        rope: Dtype of the rotary tables; None: no rotation.
        index: Device index; None for device types with one device.
        causal: Whether tokens attend to themselves and earlier tokens only.
    """

    device: str
    dtype: torch.dtype
    tokens: int
    width: int
    packed: bool
    lse: bool
    rope: torch.dtype | None = None
    index: int | None = None
    causal: bool = False


@dataclass(frozen=True, kw_only=True)
class AttentionKernel(Kernel[AttentionCase, RunAttention]):
    """One implementation of `vit_attention`.

    Attributes:
        packs: Whether it computes the packed layout directly, so that one call with sequences of several
            lengths is fastest. The torch implementations run once per length.
        causal: The implementation with a causal mask; None: it has none.
    """

    packs: bool = False
    causal: RunAttention | None = None

    def obstacle(self, case: AttentionCase) -> str | None:
        """Reason why it can't run the case on this machine, or None."""
        if case.causal and self.causal is None:
            return "has no causal mask"
        return super().obstacle(case)


class AttentionChoice(Choice[AttentionKernel]):
    """Implementations in order of preference: one if the recipe named it, else all for ``auto``."""

    operator = "attention"
    case = AttentionCase
