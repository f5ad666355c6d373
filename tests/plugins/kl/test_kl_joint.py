"""The noise of `kl` in a training step: the same for a row at any world size and in any row chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.core.training.toy import DIMS, batches, build
from vtp_core.testing.ranks import run_ranks
from vtp_core.training.forward.forwards import Forwards
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.forward.step import EngineStep
from vtp_core.training.ranks.world import World
from vtp_core.view import ViewNeed
from vtp_plugins.kl.bottleneck import KlBottleneck
from vtp_plugins.kl.config import KlConfig

NEED = {"rec": ViewNeed(rows=8)}


def latent(world: World, chunk: int | None, index: int = 0) -> Tensor:
    networks = build("last_layer")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        networks.bottleneck = KlBottleneck(KlConfig(channels=6), DIMS).double()
    views = {"rec": batches(0, rank=world.rank, world_size=world.size)["rec"]}
    forwards = Forwards(networks, world, views, NEED, ForwardOptions(microbatch_rows=chunk), index)
    return EngineStep(forwards, "l1", NEED).tokenize("rec").z


@pytest.mark.parametrize("chunk", [None, 1, 3])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_row_has_its_noise_on_any_rank_and_in_any_chunk(size: int, chunk: int | None) -> None:
    whole = latent(World(), None)
    for rank, found in enumerate(run_ranks(size, lambda world: latent(world, chunk))):
        torch.testing.assert_close(found, whole[rank::size], rtol=1e-12, atol=1e-12)


def test_each_step_has_noise_of_its_own() -> None:
    assert not torch.allclose(latent(World(), None, 0), latent(World(), None, 1))
