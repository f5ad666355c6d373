"""FLOPs as papers count them: linear and convolution layers of one image's encode and decode."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from vtp_plugins.plan.probe import Probe
from vtp_plugins.plan.products import Products


def count_layers(probe: Probe, size: int) -> int:
    """2 x multiply-adds of all linear and convolution layers for one image, forward.

    Args:
        probe: Networks.
        size: Pixels a side.
    """
    total = 0

    def linear(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Linear)
        total += 2 * output.numel() * layer.in_features

    def convolution(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, _ConvNd)
        positions = inputs[0] if layer.transposed else output
        weight = layer.weight[0].numel()  # of one channel there; the other side's channels in its group
        total += 2 * positions.numel() * weight

    networks = (probe.networks.encoder, probe.networks.bottleneck, probe.networks.decoder)
    handles = [
        layer.register_forward_hook(linear if isinstance(layer, nn.Linear) else convolution)
        for network in networks
        for layer in network.modules()
        if isinstance(layer, nn.Linear | _ConvNd)
    ]
    try:
        with Products(lambda _: None):
            probe.reconstruct(size)
    finally:
        for handle in handles:
            handle.remove()
    return total


def scale_layers(base: int, deeper: Mapping[str, int], depths: Mapping[str, int]) -> int:
    """The count at the recipe's depths.

    Args:
        base: With all depths 1.
        deeper: Component -> with its depth 2.
        depths: Component -> its depth.
    """
    return base + sum((depths[name] - 1) * (count - base) for name, count in deeper.items())
