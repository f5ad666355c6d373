"""Optimiser steps with a codebook, teachers, a critic and clipping, on two ranks and on one, in float64.

Every rank's second row has no masked patch (`toy.batches`): on two ranks one of them has an empty mask.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.core.run.whole_run import ToyRun, halves, numbers, on_two_ranks
from tests.core.training.toy import batches
from vtp_core.testing.ranks import run_processes
from vtp_core.training.ranks.world import World

pytestmark = pytest.mark.slow

ALONE = World()


def assert_close(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )


def part(tensors, prefix):
    return {
        name.removeprefix(f"{prefix}|"): value
        for name, value in tensors.items()
        if name.startswith(f"{prefix}|")
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory):
    """(folder that one process wrote at step 3, folder that two ranks wrote, results of the two ranks)."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    first = halves(ALONE, None, one, range(3))
    return first, two, run_processes(2, on_two_ranks, one, two)


def test_one_of_two_ranks_has_an_empty_mask():
    masks = [batches(0, rank=rank, world_size=2)["ssl"].masks.mask for rank in range(2)]
    assert [bool(mask.any()) for mask in masks] == [True, False]


def test_one_process_in_two_halves_is_one_in_whole(tmp_path: Path):
    halves(ALONE, None, tmp_path, range(3))
    second = halves(ALONE, tmp_path, None, range(3, 6))
    run = ToyRun(ALONE, microbatch_rows=3)
    results = {index: run.step(index) for index in range(6)}
    logged = {name: value for name, value in numbers(results).items() if int(name[0]) >= 3}
    expected = logged | run.state()
    assert second.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(second[name], value), name
    assert any(name.startswith("3|clip/") for name in second)  # it started only after the save
    assert not any(name.startswith("0|clip/") for name in numbers(results))


@pytest.mark.distributed
@pytest.mark.parametrize("how", ["first", "replicated"])
def test_two_ranks_equal_one_process(ranks, how):
    """Sharded (`first`), and with `parallel.shard` = 1."""
    first, _, results = ranks
    assert_close(part(results[0], how), first)
    assert_close(part(results[1], how), first)


@pytest.mark.distributed
@pytest.mark.parametrize("saved_by", ["one", "two"])
def test_saved_by_some_ranks_and_continued_by_others(ranks, saved_by):
    _, two, results = ranks
    run = ToyRun(ALONE, microbatch_rows=3)
    logged = {index: run.step(index) for index in range(6)}
    expected = {k: v for k, v in numbers(logged).items() if int(k[0]) >= 3} | run.state()
    found = part(results[0], "second") if saved_by == "one" else halves(ALONE, two, None, range(3, 6))
    assert_close(found, expected)


@pytest.mark.distributed
def test_bad_numbers_on_one_rank_skip_the_step_on_all_and_move_nothing(ranks):
    """The ranks compare bits (`skipped_steps`); here the next step is that of a run without the bad one."""
    _, _, results = ranks
    run = ToyRun(ALONE, late=())
    run.step(3)
    expected = numbers({5: run.step(5)}) | run.state()
    for result in results:
        for case in ("gan|loss", "koleo|gradient"):
            assert_close(part(part(result, "skipped"), case), expected)
