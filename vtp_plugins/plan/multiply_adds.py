"""The linear and convolution layers of one image's encode and decode, at the recipe's depths."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from vtp_core.view import Size
from vtp_plugins.plan.layers import report_layers
from vtp_plugins.plan.probe import Probe
from vtp_plugins.plan.products import Products


def count_layers(probe: Probe, size: Size) -> int:
    """The layers' FLOPs for one image, encoded and decoded.

    Args:
        probe: Networks.
        size: Of the image in pixels.
    """
    found: list[int] = []
    networks = (probe.networks.encoder, probe.networks.bottleneck, probe.networks.decoder)
    with ExitStack() as stack, Products(lambda _: None):
        report_layers(networks, found.append, stack)
        probe.reconstruct(size)
    return sum(found)


def scale_layers(base: int, deeper: Mapping[str, int], depths: Mapping[str, int]) -> int:
    """The count at the recipe's depths.

    Args:
        base: With all depths 1.
        deeper: Component -> with its depth 2.
        depths: Component -> its depth.
    """
    return base + sum((depths[name] - 1) * (count - base) for name, count in deeper.items())
