"""Adaptive weights at any cut: gradients that still have to come through later networks count too."""

from __future__ import annotations

import pytest
from torch import Tensor

from tests.core.training.toy import batches, build
from vtp_core.features import Features
from vtp_core.testing.ranks import run_ranks
from vtp_core.training.forward.forwards import Forwards
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.forward.step import EngineStep
from vtp_core.training.networks import Networks
from vtp_core.training.ranks.world import World
from vtp_core.view import ViewNeed

NEED = {"rec": ViewNeed(rows=8)}


def plain(networks: Networks, at: str) -> tuple[Tensor, Tensor]:
    """(gradient of the image loss at `at`, `at`) by one ordinary backward on all rows."""
    batch = batches(0)["rec"]
    tokens = networks.encoder([batch.crops["global"]], [None])[0]
    tokens.patches.retain_grad()
    latent = networks.bottleneck(Features(crops={"global": tokens}))
    latent["global"].patches.retain_grad()
    networks.decoder(latent.z).square().mean().backward()
    tensor = tokens.patches if at == "features" else latent["global"].patches
    return tensor.grad, tensor.detach()


def weights(world: World, at: str, chunk: int | None) -> float:
    """The weight of a loss at `at` that is balanced against an image loss."""
    networks = build("last_layer")
    views = {"rec": batches(0, rank=world.rank, world_size=world.size)["rec"]}
    forwards = Forwards(networks, world, views, NEED, ForwardOptions(microbatch_rows=chunk), 0)
    step = EngineStep(forwards, "l1", NEED)
    forwards.backward_loss(step.reconstruct("rec").image.square().mean())
    tensor = step.encode("rec").patches if at == "features" else step.tokenize("rec")["global"].patches
    grads = [parameter.grad for parameter in networks.decoder.parameters()]
    _, weight = step.balance(tensor.square().mean(), tensor)
    after = [parameter.grad for parameter in networks.decoder.parameters()]
    assert all(old is new for old, new in zip(grads, after, strict=True))
    forwards.backward()
    forwards.close()
    return weight.item()


@pytest.mark.parametrize("at", ["features", "latent"])
@pytest.mark.parametrize("chunk", [None, 3])
def test_the_weight_is_the_ratio_of_plain_gradients(at: str, chunk: int | None) -> None:
    gradient, tensor = plain(build("last_layer"), at)
    own = 2 * tensor / tensor.numel()
    expected = (gradient.norm() / (own.norm() + 1e-4)).item()
    assert weights(World(), at, chunk) == pytest.approx(expected, rel=1e-9)
    for found in run_ranks(2, lambda world: weights(world, at, chunk)):
        assert found == pytest.approx(expected, rel=1e-9)
