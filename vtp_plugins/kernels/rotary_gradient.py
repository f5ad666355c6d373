"""The one gradient that no attention kernel of this package has: that of the rotary tables."""

from __future__ import annotations

import torch

from vtp_core.errors import UsageError
from vtp_core.ops.attention_choice import Rope


def refuse_rotary_gradient(kernel: str, rope: Rope | None) -> None:
    """Raises if the gradient of rotary tables is required.

    Args:
        kernel: Name of the kernel, for the message.
        rope: The tables, or None.

    Raises:
        UsageError: Gradients are on and a table requires one.
    """
    if rope is not None and torch.is_grad_enabled() and (rope.cos.requires_grad or rope.sin.requires_grad):
        raise UsageError(f'attention "{kernel}" has no gradient for rotary tables; detach them')
