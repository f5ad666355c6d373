"""Attention for vision transformers: query and key norm, 2-D rotation and softmax attention in one call.

    out = vit_attention(q, k, v, q_norm=..., k_norm=..., rope=Rope(cos, sin))

The contract is here, its checks are in `attention_arguments`, the torch implementations in `attention_torch`,
the choice between them and those of plugins in `attention_choice` and `choice`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Real
from typing import Literal, overload

import torch
from torch import Tensor

from vtp_core.errors import UsageError
from vtp_core.ops.arguments import require_kind
from vtp_core.ops.attention_arguments import check_attention
from vtp_core.ops.attention_choice import AttentionCase, AttentionChoice, AttentionKernel, Rope
from vtp_core.ops.attention_torch import TORCH_KERNELS
from vtp_core.ops.installed import installed, installed_ranking, ranked_device
from vtp_core.ops.ranking import Ranking


def attention_choice(
    name: str = "auto", kernels: Sequence[AttentionKernel] | None = None, ranking: Ranking | None = None
) -> AttentionChoice:
    """The implementations that ``[kernels] attention = name`` allows.

    ``auto`` asks, in order, those of plugins, plain matmuls (CPU, below float32, short sequences) and SDPA.

    Args:
        name: ``"auto"``, ``"sdpa"``, ``"matmul"``, ``"reference"`` or the name of one of `kernels`.
        kernels: Implementations of plugins in order of preference; the installed ones by default.
        ranking: Measured order for ``auto``. Default: with installed kernels, that of the current device.

    Raises:
        UsageError: There is no such implementation.
    """
    if kernels is None:
        kernels = installed(AttentionKernel)
        if name == "auto" and ranking is None:
            ranking = installed_ranking(AttentionChoice, ranked_device())
    return AttentionChoice.named(name, (*kernels, *TORCH_KERNELS), ranking)


@overload
def vit_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    rope: Rope | None = None,
    cu_seqlens: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    return_lse: Literal[False] = False,
    implementation: AttentionChoice | None = None,
) -> Tensor: ...
@overload
def vit_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    rope: Rope | None = None,
    cu_seqlens: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    return_lse: Literal[True],
    implementation: AttentionChoice | None = None,
) -> tuple[Tensor, Tensor]: ...
def vit_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    rope: Rope | None = None,
    cu_seqlens: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    return_lse: bool = False,
    implementation: AttentionChoice | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Self-attention, in the dtype of its inputs: autocast is disabled.

    Args:
        q: Queries, (B, H, N, d); packed with `cu_seqlens`: (T, H, d).
        k: Keys, same shape, dtype and device.
        v: Values, same shape, dtype and device.
        q_norm: Weight (d,) of an RMS norm of the queries (epsilon 1e-5, statistics in float32), or None.
        k_norm: The same for the keys.
        rope: Tables (P, d), P <= N: the last P tokens are rotated, after the norm. Packed: (T, d), with
            cosine 1 and sine 0 for tokens that are not rotated.
        cu_seqlens: (S + 1,) int32 or int64, starts of the S sequences of the packed layout, then T. Tokens
            attend to their own sequence only. Its values are read on the host; inside torch.compile only
            the implementation reads them, and it must support packing (`packs`) to be part of a graph.
        scale: Factor on the scores; d ** -0.5 by default.
        causal: Whether each token attends to itself and to earlier tokens of its sequence only.
        return_lse: Whether to return the log-sum-exp of the scaled scores as well.
        implementation: From `attention_choice`. Default: ``auto`` among installed implementations; for
            torch.export among those of torch.

    Returns:
        Output in the shape and dtype of `q`, or (output, lse) with lse (B, H, N), packed (T, H), float32.

    Raises:
        TypeError: An argument has the wrong type; names it.
        ValueError: Shapes, dtypes or devices don't fit; names the argument.
        UsageError: The chosen implementation can't run the case.
    """
    check_attention(q, k, v, q_norm, k_norm, rope, cu_seqlens)
    if scale is not None:
        require_kind("vit_attention", "scale", scale, Real, "a number")
    require_kind("vit_attention", "causal", causal, bool, "True or False")
    require_kind("vit_attention", "return_lse", return_lse, bool, "True or False")
    if implementation is not None:
        require_kind(
            "vit_attention", "implementation", implementation, AttentionChoice, "an attention_choice(...)"
        )
    case = AttentionCase(
        device=q.device.type,
        dtype=q.dtype,
        tokens=_longest(q, cu_seqlens),
        width=q.shape[-1],
        packed=cu_seqlens is not None,
        lse=return_lse,
        rope=None if rope is None else rope.cos.dtype,
        index=q.device.index,
        causal=causal,
    )
    kernel = (implementation or default_choice(q.device)).pick(case)
    if case.packed and not kernel.packs and torch.compiler.is_compiling():
        # Its loop depends on values. Without fullgraph=True torch breaks the graph here and runs it eagerly.
        raise UsageError(
            f'vit_attention: attention "{kernel.name}" can\'t be compiled for packed sequences; pass '
            "implementation=attention_choice(name) of a kernel that packs, or leave fullgraph out"
        )
    run = kernel.causal if causal else kernel.run
    assert run is not None, f"attention kernel {kernel.name} has no causal mask"
    with _no_autocast(case.device):
        out, lse = run(
            q,
            k,
            v,
            q_norm=q_norm,
            k_norm=k_norm,
            rope=rope,
            cu_seqlens=cu_seqlens,
            scale=q.shape[-1] ** -0.5 if scale is None else scale,
            return_lse=return_lse,
        )
    if not return_lse:
        return out
    assert lse is not None, f"attention kernel {kernel.name} returned no log-sum-exp"
    return out, lse


class _Default:
    """Default choices of `vit_attention`, one per device, made on first use.

    An object, not a cached function: torch.compile reads the attribute and guards it.
    """

    choices: Mapping[tuple[str, int | None], AttentionChoice] = {}


_DEFAULT = _Default()


def default_choice(device: torch.device) -> AttentionChoice:
    """Default choice of `vit_attention` for tensors on a device."""
    if torch.compiler.is_exporting():
        return AttentionChoice(TORCH_KERNELS)  # the exported program may run where no plugin is installed
    _find_installed(device.type, device.index)
    return _DEFAULT.choices[device.type, device.index]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # called while tracing, not traced
def _find_installed(device: str, index: int | None) -> bool:
    if (device, index) not in _DEFAULT.choices:
        ranking = installed_ranking(AttentionChoice, torch.device(device, index or 0))
        choice = AttentionChoice((*installed(AttentionKernel), *TORCH_KERNELS), ranking)
        _DEFAULT.choices = {**_DEFAULT.choices, (device, index): choice}
    return True


def _longest(q: Tensor, cu_seqlens: Tensor | None) -> int:
    """Tokens of the longest sequence; an upper bound while compiling."""
    if cu_seqlens is None:
        return q.shape[2]
    if torch.compiler.is_compiling():
        return q.shape[0]
    return max(cu_seqlens.diff().tolist(), default=0)


def _no_autocast(device: str) -> AbstractContextManager[object]:
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
