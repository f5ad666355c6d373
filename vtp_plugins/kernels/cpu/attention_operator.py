"""Shapes, gradients and batching of ``vtp_cpu::attention_*``; imported once the library is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from vtp_core.errors import UsageError
from vtp_plugins.kernels.flops import attention_flops


def _forward_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    *batch, tokens, heads, _ = q.shape
    return q.new_empty(q.shape), q.new_empty((*batch, heads, tokens), dtype=torch.float32)


def _backward_fake(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    *tokens, heads, width = q.shape
    norms = [q.new_empty(0 if w is None else width, dtype=torch.float32) for w in (q_norm, k_norm)]
    return q.new_empty((*tokens, 3, heads, width)), norms[0], norms[1]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, q_norm, k_norm, cos, sin, cu_seqlens, out, lse = ctx.saved_tensors
    nothing = (None,) * 9
    if grad_out is None and grad_lse is None:
        return nothing
    if grad_out is None:
        grad_out = torch.zeros_like(out)
    gradient, for_q_norm, for_k_norm = torch.ops.vtp_cpu.attention_backward(
        grad_out, grad_lse, q, k, v, out, lse, q_norm, k_norm, cos, sin, cu_seqlens, ctx.scale
    )
    # Views of one tensor: the backward of a joint q, k, v projection can join them without a copy.
    for_q, for_k, for_v = gradient.unbind(-3)
    norms = (
        None if weight is None else found.to(weight.dtype)
        for weight, found in ((q_norm, for_q_norm), (k_norm, for_k_norm))
    )
    return for_q, for_k, for_v, *norms, None, None, None, None


def _refuse(ctx: Any, *gradients: Tensor | None) -> None:
    raise UsageError(
        'attention "cpu" has no second derivative; use [kernels] attention = "reference", '
        'in Python vit_attention(..., implementation=attention_choice("reference"))'
    )


def _forward_vmap(
    info: Any, in_dims: Sequence[int | None], *arguments: Any
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """A batch of dense calls is one call of more sequences; norms, tables and packed calls go one by one."""
    of_rows, of_rest = in_dims[:3], in_dims[3:]
    if arguments[0].dim() != 5 or any(dim is not None for dim in of_rest):
        return _one_by_one(torch.ops.vtp_cpu.attention_forward, info, in_dims, arguments)
    rows = [
        x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(arguments[:3], of_rows, strict=True)
    ]
    batches = rows[0].shape[:2]
    out, lse = torch.ops.vtp_cpu.attention_forward(*(x.flatten(0, 1) for x in rows), *arguments[3:])
    return tuple(x.unflatten(0, batches) for x in (out, lse)), (0, 0)


def _backward_vmap(
    info: Any, in_dims: Sequence[int | None], *arguments: Any
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    return _one_by_one(torch.ops.vtp_cpu.attention_backward, info, in_dims, arguments)


def _one_by_one(
    operator: Callable[..., tuple[Tensor, ...]],
    info: Any,
    in_dims: Sequence[int | None],
    arguments: Sequence[Any],
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    found = [
        operator(
            *(x if dim is None else x.select(dim, at) for x, dim in zip(arguments, in_dims, strict=True))
        )
        for at in range(info.batch_size)
    ]
    if not found:
        shapes = operator(
            *(
                x if dim is None else x.new_zeros(x.movedim(dim, 0).shape[1:])
                for x, dim in zip(arguments, in_dims, strict=True)
            )
        )
        return tuple(x.new_empty(0, *x.shape) for x in shapes), (0,) * len(shapes)
    results = tuple(torch.stack(parts) for parts in zip(*found, strict=True))
    return results, (0,) * len(results)


torch.library.register_fake("vtp_cpu::attention_forward", _forward_fake)
torch.library.register_fake("vtp_cpu::attention_backward", _backward_fake)
torch.library.register_autograd("vtp_cpu::attention_forward", _differentiate, setup_context=_save)
torch.library.register_autograd("vtp_cpu::attention_backward", _refuse)
torch.library.register_vmap("vtp_cpu::attention_forward", _forward_vmap)
torch.library.register_vmap("vtp_cpu::attention_backward", _backward_vmap)


@register_flop_formula(torch.ops.vtp_cpu.attention_forward)
def _flops(q: Sequence[int], k: Sequence[int], *_: object, **__: object) -> int:
    *batch, tokens, heads, width = q
    return attention_flops(batch, heads, tokens, k[-3], width)
