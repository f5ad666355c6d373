"""The convolutional networks as sharded units, on one rank: equal gradients, under autocast too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from vtp_core.features import Features
from vtp_core.parameters import Dims
from vtp_core.training.ranks.parallel import shard_tree
from vtp_plugins.cnn.config import CnnDecoderConfig, CnnEncoderConfig
from vtp_plugins.cnn.decoder import CnnDecoder
from vtp_plugins.cnn.encoder import CnnEncoder
from vtp_plugins.kl.bottleneck import KlBottleneck
from vtp_plugins.kl.config import KlConfig

pytestmark = pytest.mark.distributed
SMALL = {"channels": 32, "multipliers": (1, 1), "residual_blocks": 1, "attention": (2,)}
DIMS = Dims(width=6, patch=2, depth=4, has_cls=False, channels=3)


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def networks() -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        CnnEncoder(CnnEncoderConfig(**SMALL, width=6)),
        KlBottleneck(KlConfig(channels=3), DIMS),
        CnnDecoder(CnnDecoderConfig(**SMALL), DIMS),
    ]


def gradients(parts: list[nn.Module], images: Tensor, autocast: bool) -> list[Tensor]:
    encoder, bottleneck, decoder = parts
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        tokens = encoder([images], [None], drop_path=0.3)
        latent = bottleneck(Features(crops={"global": tokens[0]}))
        image = decoder(latent.z)
    (image.square().mean() + latent.aux["kl"]).backward()
    return [parameter.grad for part in parts for parameter in part.parameters()]


@pytest.mark.parametrize("autocast", [False, True])
def test_sharding_changes_no_gradient(mesh: DeviceMesh, autocast: bool) -> None:
    images = torch.randn(2, 1, 3, 8, 4)
    expected = gradients(networks(), images, autocast)
    parts = networks()
    for part in parts:
        shard_tree(part, mesh)
    for found, gradient in zip(gradients(parts, images, autocast), expected, strict=True):
        torch.testing.assert_close(found.full_tensor(), gradient, atol=1e-6, rtol=1e-5)
