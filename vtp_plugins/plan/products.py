"""Counts matrix products, convolutions and attention instead of computing them.

A plan needs shapes, not values. The products' results are tensors of the right shape with a constant in
them; everything else, masked indexing included, runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

FILL = 0.01
"""Small and not zero: norms and square roots of it have finite gradients."""

_aten = torch.ops.aten


class Products(TorchDispatchMode):
    """While active, replaces the products and reports each one's FLOPs.

    Args:
        report: Called with the FLOPs (2 x multiply-adds) of each product.
    """

    def __init__(self, report: Callable[[int], None]) -> None:
        super().__init__()
        self._report = report

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs one operation; a product returns a constant of its shape."""
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if func._schema.is_mutable or not (packet in flop_registry or packet in _CPU_ATTENTION):
            return func(*args, **kwargs)
        shapes = func(*tree_map_only(Tensor, _shape_of, args), **tree_map_only(Tensor, _shape_of, kwargs))
        if packet in _CPU_ATTENTION:
            self._report(_CPU_ATTENTION[packet](*args))
        else:
            self._report(int(flop_registry[packet](*args, **kwargs, out_val=shapes)))
        return tree_map_only(Tensor, _filled, shapes)


class Undrawn(TorchDispatchMode):
    """While active, initial weights are constants: drawing them takes longer than the step they are for."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs one operation; in-place draws fill instead."""
        if func._overloadpacket in (_aten.normal_, _aten.uniform_):
            return args[0].fill_(FILL)
        return func(*args, **(kwargs or {}))


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: object) -> int:
    return int(sdpa_flop_count(q.shape, k.shape, v.shape))


def _attention_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object) -> int:
    return int(sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape))


_CPU_ATTENTION: Mapping[Any, Callable[..., int]] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""What torch's own table of FLOPs lacks."""


def _shape_of(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _filled(shape: Tensor) -> Tensor:
    out = torch.empty_strided(shape.shape, shape.stride(), dtype=shape.dtype)
    return out.fill_(FILL if shape.dtype.is_floating_point else 0)
