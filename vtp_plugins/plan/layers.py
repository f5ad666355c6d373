"""FLOPs as papers count them: 2 x multiply-adds of linear and convolution layers, forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


def report_layers(networks: Iterable[nn.Module], report: Callable[[int], None], stack: ExitStack) -> None:
    """Reports the FLOPs of each linear or convolution layer when it runs.

    Args:
        networks: Their layers.
        report: Called with 2 x multiply-adds of a layer's forward.
        stack: Ends it.
    """

    def linear(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        report(2 * output.numel() * layer.in_features)

    def convolution(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, _ConvNd)
        positions = inputs[0] if layer.transposed else output
        weight = layer.weight[0].numel()  # of one channel there; the other side's channels in its group
        report(2 * positions.numel() * weight)

    layers = {layer: None for network in networks for layer in network.modules()}
    for layer in layers:
        if isinstance(layer, nn.Linear | _ConvNd):
            hook = linear if isinstance(layer, nn.Linear) else convolution
            stack.callback(layer.register_forward_hook(hook).remove)
