"""Gradient norms and clipping over plain tensors and DTensors, mixed or not.

`torch.nn.utils.clip_grad_norm_` refuses such a mix. Square sums are taken in float32 (float64 for float64
gradients) on the local shards and added over the mesh dimensions that shard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from vtp_core.training.ranks.shards import local

_EPS = 1e-6  # as torch.nn.utils.clip_grad_norm_

_Layout = tuple[DeviceMesh | None, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Clipped:
    """Gradient norms and the factors of clipping.

    Attributes:
        norms: Owner -> norm of its gradients before clipping, over all ranks.
        norm: Norm over all owners, before clipping.
        factors: Owner -> factor in (0, 1] that its gradients were scaled by.
    """

    norms: Mapping[str, float]
    norm: float
    factors: Mapping[str, float]

    @property
    def finite(self) -> bool:
        """Whether every gradient of every owner is finite (and its square sum, in float32)."""
        return math.isfinite(self.norm)


def _layout(tensor: Tensor) -> _Layout:
    """The mesh of a tensor and its dimensions over which shards add up."""
    if not isinstance(tensor, DTensor):
        return None, ()
    return tensor.device_mesh, tuple(i for i, place in enumerate(tensor.placements) if place.is_shard())


@torch.no_grad()
def clip_gradients(
    gradients: Mapping[str, Sequence[tuple[Tensor, Tensor | None]]],
    limit: float | None,
    scope: Literal["global", "owner"],
) -> Clipped:
    """Scales gradients in place so that their norm is at most `limit`.

    Args:
        gradients: Owner -> (parameter, its gradient or None). Parameters are listed even without gradient:
            every rank takes part in the same reductions.
        limit: Largest norm; None only measures.
        scope: Whether the limit holds for the norm over all owners or for each owner's.

    Returns:
        Norms and factors, equal on all ranks. Nothing is scaled where the norm is not finite.
    """
    owners = list(gradients)
    grads = [grad for pairs in gradients.values() for _, grad in pairs if grad is not None]
    precise = any(grad.dtype == torch.float64 for grad in grads)
    dtype = torch.float64 if precise else torch.float32
    device = next((pair[0].device for pairs in gradients.values() for pair in pairs), torch.device("cpu"))

    by_layout: dict[_Layout, dict[int, list[Tensor]]] = {}
    for number, pairs in enumerate(gradients.values()):
        for parameter, grad in pairs:
            by_owner = by_layout.setdefault(_layout(parameter), {})
            if grad is not None:
                by_owner.setdefault(number, []).append(local(grad))

    squares = torch.zeros(len(owners), dtype=dtype, device=device)
    for (mesh, dims), by_owner in by_layout.items():
        part = torch.zeros_like(squares)
        for number, tensors in by_owner.items():
            part[number] = torch.stack(torch._foreach_norm(tensors, 2.0, dtype=dtype)).square().sum()
        for dim in dims:
            assert mesh is not None
            dist.all_reduce(part, group=mesh.get_group(dim))
        squares += part

    # One transfer to the host a step: the guard has to know whether the norms are finite anyway.
    values: list[float] = squares.tolist()
    norms, norm = [math.sqrt(value) for value in values], math.sqrt(sum(values))
    factors = dict.fromkeys(owners, 1.0)
    for owner, own in zip(owners, norms, strict=True):
        measured = norm if scope == "global" else own
        if limit is not None and math.isfinite(norm):
            factors[owner] = min(1.0, limit / (measured + _EPS))
    for owner, factor in factors.items():
        scaled = [local(grad) for _, grad in gradients[owner] if grad is not None]
        if factor < 1.0 and scaled:
            torch._foreach_mul_(scaled, factor)
    return Clipped(norms=dict(zip(owners, norms, strict=True)), norm=norm, factors=factors)
