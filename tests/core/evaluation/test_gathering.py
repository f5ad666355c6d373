"""States travel to rank 0 alone, as they are; results travel back."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

from vtp_core.errors import DataError, UsageError
from vtp_core.evaluation import gathering
from vtp_core.evaluation.gathering import Gathering
from vtp_core.features import Tally
from vtp_core.testing.ranks import run_processes
from vtp_core.training.ranks.world import World

COUNTS = (3, 0, 4)
"""Rows of each rank."""


def rows_of(rank: int) -> dict[str, Tensor]:
    """Rows of many types; a rank without any does not know their shape."""
    count = COUNTS[rank]
    drawn = torch.Generator().manual_seed(rank)
    values = torch.randint(0, 255, (count, 2, 3), generator=drawn)
    return {
        "uint8": values.to(torch.uint8),
        "bool": values > 100,
        "float32": values.float() if count else torch.zeros(0),
        "bfloat16": values.bfloat16().transpose(1, 2),
        "int64": values[:, 0, 0],
    }


def sums_of(rank: int) -> dict[str, Tensor]:
    return {"scalar": torch.tensor(rank + 0.1, dtype=torch.float64), "matrix": torch.full((2, 2), 2.0**rank)}


def gathered(world: World) -> dict[str, Tensor]:
    gathering.CHUNK = 7  # bytes: messages end within numbers
    with Gathering(world) as ranks:
        state = ranks.gather(Tally(sums=sums_of(world.rank), rows=rows_of(world.rank)))
        empty = ranks.gather(Tally(rows={"none": torch.zeros(0, dtype=torch.uint8)}))
        assert (state is None) == (empty is None) == (world.rank > 0)
        shared = ranks.from_first(lambda: {"rank": world.rank})
        with pytest.raises(DataError, match="nothing there"):
            ranks.from_first(fail)
    if state is None or empty is None:
        return {"shared": torch.tensor(shared["rank"])}
    assert not empty.rows["none"].numel()
    return {"shared": torch.tensor(shared["rank"]), **state.sums, **state.rows}


def fail() -> None:
    raise DataError("nothing there")


@pytest.mark.distributed
def test_rank_0_has_all_rows_in_their_types_and_the_others_none() -> None:
    first, *others = run_processes(3, gathered)
    assert [list(other) for other in others] == [["shared"], ["shared"]]
    assert all(int(rank["shared"]) == 0 for rank in (first, *others))
    parts = [rows_of(rank) for rank in range(3)]
    for name in parts[0]:
        expected = torch.cat([part[name] for part in parts if len(part[name])])
        assert first[name].dtype == expected.dtype and torch.equal(first[name], expected), name
    assert first["scalar"].item() == pytest.approx(0.1 + 1.1 + 2.1, rel=1e-15)
    assert torch.equal(first["matrix"], torch.full((2, 2), 7.0))


def different(world: World) -> dict[str, Tensor]:
    names = "a" if world.rank == 0 else "b"
    with Gathering(world) as ranks:
        if world.rank == 0:
            with pytest.raises(RuntimeError, match="state of rank 1 is"):
                ranks.gather(Tally(sums={names: torch.zeros(1)}))
            return {}
        ranks.gather(Tally(sums={names: torch.zeros(0)}))
    return {}


@pytest.mark.slow
@pytest.mark.distributed
def test_states_that_do_not_fit_are_an_error() -> None:
    run_processes(2, different)


def waits(world: World) -> dict[str, Tensor]:
    distributed_c10d._set_pg_timeout(timedelta(seconds=1), dist.group.WORLD)

    def slow() -> int:
        time.sleep(2.5)
        return 5

    with Gathering(world) as ranks:
        return {"found": torch.tensor(ranks.from_first(slow))}


@pytest.mark.slow
@pytest.mark.distributed
def test_a_long_computation_on_rank_0_ends_no_run() -> None:
    """The timeout of training steps, here a second, is not that of an evaluation."""
    assert [int(rank["found"]) for rank in run_processes(2, waits)] == [5, 5]


def test_one_rank_needs_no_process_group() -> None:
    state = Tally(sums={"a": torch.ones(2)}, rows={"b": torch.zeros(3, 1)})
    with Gathering(World()) as ranks:
        assert ranks.gather(state) is state
        assert ranks.from_first(lambda: 3) == 3
        with pytest.raises(UsageError):
            ranks.from_first(lambda: (_ for _ in ()).throw(UsageError("x")))
