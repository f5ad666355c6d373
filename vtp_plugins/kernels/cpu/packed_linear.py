"""Linear layers whose weights oneDNN has packed once, for inference on a CPU.

torch multiplies float32 matrices by MKL, which reaches 40 % of the peak of an AMD core where oneDNN reaches
85 %, and packs bfloat16 weights again in every call.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

DTYPES = (torch.float32, torch.bfloat16)

TYPICAL_ROWS = 2048
"""Rows of a product for which the layout is chosen; other numbers of rows give the same result."""


class PackedLinear(nn.Linear):
    """An `nn.Linear` that multiplies by a packed copy of its weight; weight and bias are the original's.

    Where the copy does not apply (a gradient is recorded, the weight has changed or moved, torch.compile), it
    computes as `nn.Linear` does.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Packs the weight of a layer that `packs` accepts."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.train(linear.training)
        # Not a buffer: an opaque layout has no storage that could be moved or saved.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), TYPICAL_ROWS)
        self._packed_from: tuple[int, int] | None = self._state_of_weight()

    def __getstate__(self) -> dict[str, Any]:
        """Copied and pickled without the packed weight, which can be neither."""
        return {**self.__dict__, "_packed": None, "_packed_from": None}

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features), in the dtype of the weight."""
        if torch.compiler.is_compiling() or not self._applies_to(x):
            return super().forward(x)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return out

    def _applies_to(self, x: Tensor) -> bool:
        recorded = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        same = x.dtype == self.weight.dtype and x.device == self.weight.device
        autocast = torch.is_autocast_enabled(x.device.type)
        return same and not recorded and not autocast and self._packed_from == self._state_of_weight()

    def _state_of_weight(self) -> tuple[int, int]:
        version = -1 if self.weight.is_inference() else self.weight._version
        return self.weight.data_ptr(), version


def packing_available() -> bool:
    """Whether this torch can pack weights with oneDNN."""
    operators = torch.ops.mkldnn
    needed = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(operators, name) for name in needed)


def packs(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer is a plain `nn.Linear` whose weight can be packed where it is."""
    return (
        type(layer) is nn.Linear
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype in DTYPES
        and layer.weight.numel() > 0
        and packing_available()
    )


def pack_linears(model: nn.Module) -> int:
    """Replaces each linear layer of a model, at any depth, that `packs` accepts by a `PackedLinear`.

    Each packed weight takes as much memory again. Results agree with those of `nn.Linear` to rounding: 1e-6
    (float32) or 6e-3 (bfloat16) of the sum of the products' magnitudes.

    Returns:
        Number of places that were replaced.
    """
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if packs(child)
    ]
    packed = {id(child): PackedLinear(child) for _, _, child in places}
    for parent, name, child in places:
        setattr(parent, name, packed[id(child)])
    return len(places)


def prepare(tokenizer: nn.Module) -> str | None:
    """Packs the linear layers of a tokenizer in evaluation mode on a CPU; one line on what was done."""
    count = 0 if tokenizer.training else pack_linears(tokenizer)
    return f"{count} linear layers packed for oneDNN" if count else None
