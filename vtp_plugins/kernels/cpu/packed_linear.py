"""Linear layers whose weights oneDNN has laid out once, for inference on a CPU.

torch multiplies float32 matrices by MKL, which reaches 40 % of the peak of an AMD core where oneDNN reaches
85 %, and lays bfloat16 weights out anew in every call. `pack_linears` does that once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtp_core.errors import UsageError

DTYPES = (torch.float32, torch.bfloat16)

TYPICAL_ROWS = 2048
"""Rows of a product for which the layout is chosen; other numbers of rows give the same result."""


class PackedLinear(nn.Module):
    """An `nn.Linear` for inference; has no parameters and can be neither trained nor saved.

    Attributes:
        in_features: Channels of the input.
        out_features: Channels of the output.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Lays out the weight of a layer.

        Args:
            linear: On the CPU, float32 or bfloat16.

        Raises:
            UsageError: The layer is elsewhere or of another dtype, or this torch has no oneDNN.
        """
        super().__init__()
        weight = linear.weight.detach()
        if weight.device.type != "cpu" or weight.dtype not in DTYPES:
            raise UsageError(
                f"packed linear layers are float32 or bfloat16 on a CPU, this one is {weight.dtype} on "
                f"{weight.device}; convert the model first"
            )
        if not packing_available():
            raise UsageError("packed linear layers need a torch with oneDNN; vtp doctor shows which it is")
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype = weight.dtype
        # Not buffers: an opaque layout has no storage that could be moved or saved.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)
        bias: Tensor | None = linear.bias
        self.bias = None if bias is None else bias.detach().clone()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features), in the dtype of the weight.

        Raises:
            ValueError: The input has another dtype than the weight.
        """
        if x.dtype != self.dtype:
            raise ValueError(f"PackedLinear: x is {x.dtype}, but the weight was packed as {self.dtype}")
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return out

    def extra_repr(self) -> str:
        """Widths and dtype."""
        return f"in_features={self.in_features}, out_features={self.out_features}, dtype={self.dtype}"


def packing_available() -> bool:
    """Whether this torch can lay weights out with oneDNN."""
    operators = torch.ops.mkldnn
    needed = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(operators, name) for name in needed)


def pack_linears(model: nn.Module) -> int:
    """Replaces every `nn.Linear` in a model, at any depth, by a `PackedLinear`.

    The model is then for inference: convert its dtype before, save or train another copy.

    Args:
        model: On the CPU, in evaluation mode.

    Returns:
        Layers that were replaced.

    Raises:
        UsageError: The model is in training mode, or a layer can't be packed; nothing was replaced.
    """
    if model.training:
        raise UsageError("pack_linears: the model is in training mode; call model.eval() first")
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
    ]
    packed = {id(child): PackedLinear(child) for _, _, child in places}
    for parent, name, child in places:
        setattr(parent, name, packed[id(child)].eval())
    return len(places)
