"""Several ranks move the codebook as one does, revival included."""

from __future__ import annotations

import pytest
import torch

from tests.plugins.vq.quantizers import TABLES
from vtp_core.features import Features
from vtp_core.testing import TINY_DIMS, drawn_features, run_processes, run_ranks
from vtp_core.training.forward.cut import take_rows
from vtp_core.training.networks import Networks
from vtp_core.training.ranks.parallel import build_mesh, wrap
from vtp_core.training.ranks.tallies import reduce_tally
from vtp_core.training.ranks.world import World
from vtp_core.training.saving.state import whole
from vtp_plugins.vq.bottleneck import VqBottleneck
from vtp_plugins.vq.config import VqConfig

ROWS = 12
EAGER = {
    "ema": {"revive_every": 1, "dead_below": 0.9},
    "cosine": {"revive_every": 1, "dead_below": 0.9},
    "ibq": {},
    "lfq": {},
    "product": {},
    "residual": {},
}


def states(world: World, name: str) -> dict[str, torch.Tensor]:
    """The bottleneck's state after calibration and four steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = VqConfig(
            channels=4,
            quantizer={**TABLES[name], **EAGER[name]},
            sample_tokens=3,
            calibration_rows=7,
            sample_rows=5,
        )
        bottleneck = VqBottleneck(config, TINY_DIMS).double().train()

    def own(step: int) -> Features:
        features = drawn_features(TINY_DIMS, rows=ROWS, seed=step)
        mine = torch.utils._pytree.tree_map(
            lambda x: x.double() if torch.is_tensor(x) and x.is_floating_point() else x, features
        )
        rows = torch.utils._pytree.tree_map(
            lambda x: x[world.rank :: world.size] if torch.is_tensor(x) else x, mine
        )
        assert isinstance(rows, Features)
        return take_rows(rows, slice(0, None))

    with torch.no_grad():
        if bottleneck.calibration_rows:
            bottleneck.calibrate(reduce_tally([bottleneck.observe(own(9))], world, bottleneck.sample_rows))
        for step in range(4):
            tally = bottleneck(own(step)).tally
            assert tally is not None
            bottleneck.after_step(reduce_tally([tally], world, bottleneck.sample_rows), step)
    return bottleneck.state_dict()


@pytest.mark.parametrize("name", EAGER)
@pytest.mark.parametrize("size", [2, 4])
def test_ranks_move_the_codebook_as_one_does(name: str, size: int) -> None:
    alone = states(World(), name)
    for found in run_ranks(size, lambda world: states(world, name)):
        for key, value in alone.items():
            torch.testing.assert_close(
                found[key], value, rtol=1e-10, atol=1e-10, msg=f"{key} on {size} ranks"
            )


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("size", [2, 4])
def test_real_processes_do_too(size: int) -> None:
    alone = states(World(), "ema")
    for found in run_processes(size, states, "ema"):
        for key, value in alone.items():
            torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-10)


def decoded(world: World, name: str) -> dict[str, torch.Tensor]:
    """The vectors of codes by a bottleneck whose parameters are sharded, and their gradient."""
    torch.manual_seed(0)
    bottleneck = VqBottleneck(VqConfig(channels=4, quantizer=TABLES[name]), TINY_DIMS)
    empty = torch.nn.Identity()
    wrap(
        Networks(encoder=empty, bottleneck=bottleneck, decoder=empty, objectives={}),
        build_mesh(world, world.size),
    )
    books = [torch.arange(16).view(4, 4) % size for size in bottleneck.codebook_sizes]
    codes = torch.stack(books)[None]
    found = bottleneck.decode_codes(codes)
    found.square().sum().backward()
    bottleneck(drawn_features(TINY_DIMS, rows=2, seed=0))  # the next forward finds its shards
    gradients = {key: value.grad for key, value in bottleneck.named_parameters() if value.grad is not None}
    return {"decoded": found.detach(), **whole(gradients)}


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("name", ["codebook_loss", "simvq", "residual"])
def test_codes_decode_where_the_codebook_is_sharded(name: str) -> None:
    alone = decoded(World(), name)
    assert len(alone) == 2 + (name == "residual")
    for found in run_processes(2, decoded, name):
        for key, value in alone.items():
            torch.testing.assert_close(found[key], value)
