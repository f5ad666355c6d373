"""The networks as sharded units, on one rank: equal gradients, and no view leaves a sharded module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from vtp_core.features import Features
from vtp_core.parameters import Dims
from vtp_plugins.kl.bottleneck import KlBottleneck
from vtp_plugins.kl.config import KlConfig
from vtp_plugins.linear.bottleneck import LinearBottleneck
from vtp_plugins.linear.config import LinearConfig
from vtp_plugins.vit.config import VitDecoderConfig, VitEncoderConfig
from vtp_plugins.vit.decoder import VitDecoder
from vtp_plugins.vit.encoder import VitEncoder

pytestmark = pytest.mark.distributed
DIMS = Dims(width=24, patch=4, depth=2, has_cls=True, channels=5)


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def networks(bottleneck: str) -> list[nn.Module]:
    torch.manual_seed(0)
    sizes = {"width": 24, "depth": 2, "heads": 2}
    linear = LinearBottleneck(LinearConfig(channels=5), DIMS)
    return [
        VitEncoder(VitEncoderConfig(**sizes, patch=4, drop_path_mode="subset")),
        linear if bottleneck == "linear" else KlBottleneck(KlConfig(channels=5), DIMS),
        VitDecoder(VitDecoderConfig(**sizes), DIMS),
    ]


def gradients(parts: list[nn.Module], images: list[Tensor], autocast: bool) -> list[Tensor]:
    encoder, bottleneck, decoder = parts
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        crops = encoder(images, [None, None], layers=(0,), drop_path=0.3)
        latent = bottleneck(Features(crops={"global": crops[0], "local": crops[1]}))
        image = decoder(latent.z)
    loss = image.square().sum() + latent["local"].patches.sum() + latent["local"].cls.sum()
    (loss + crops[1].layers[0].square().sum()).backward()
    return [parameter.grad for part in parts for parameter in part.parameters()]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("bottleneck", ["linear", "kl"])
def test_sharding_changes_no_gradient(mesh: DeviceMesh, bottleneck: str, autocast: bool) -> None:
    images = [torch.randn(1, 1, 3, 8, 8), torch.randn(1, 2, 3, 4, 8)]
    expected = gradients(networks(bottleneck), images, autocast)
    parts = networks(bottleneck)
    for part in parts:
        for block in part.blocks() if hasattr(part, "blocks") else ():
            fully_shard(block, mesh=mesh)
        fully_shard(part, mesh=mesh)
    for found, gradient in zip(gradients(parts, images, autocast), expected, strict=True):
        torch.testing.assert_close(found.full_tensor(), gradient, atol=1e-6, rtol=1e-5)
