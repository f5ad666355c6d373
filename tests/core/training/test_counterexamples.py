"""Each rule broken once: the comparison that shows the rule must notice.

Every counterexample stands beside the right one in the same harness, so that it fails for its own reason.
"""

from __future__ import annotations

import pytest

from tests.core.training.counterexamples import (
    BatchNormBlock,
    CountingBlock,
    OwnGeneratorBlock,
    gradients_of,
    on_two_ranks,
    with_blocks,
)
from tests.core.training.oracle import OracleRun
from tests.core.training.toy import Block, add_teachers, build, gradients, largest_difference
from vtp_core.testing.ranks import run_processes
from vtp_core.training.ranks.world import World

ALONE = World()
SEEN = 1e-5
"""Largest difference of a gradient above which a comparison at 1e-12 can't have passed by luck."""


def difference(left, right) -> float:
    return largest_difference(left, right)[0]


@pytest.mark.parametrize(
    ("kind", "right"), [(Block, True), (CountingBlock, False), (OwnGeneratorBlock, False)]
)
def test_second_forward_of_checkpointing(kind, right):
    """State changed in `forward`, and random numbers of a generator of one's own."""
    once, twice = (
        gradients_of(ALONE, with_blocks(build("one_view"), kind), drop_path=0.3, checkpoint=checkpoint)
        for checkpoint in (False, True)
    )
    assert difference(once, twice) < 1e-12 if right else difference(once, twice) > SEEN


@pytest.mark.parametrize(
    ("kind", "right"),
    [(Block, True), (BatchNormBlock, False), (CountingBlock, False), (OwnGeneratorBlock, False)],
)
def test_row_chunks(kind, right):
    """Statistics over the rows of a chunk, and a second forward that is another one."""
    whole, chunks = (
        gradients_of(ALONE, with_blocks(build("one_view"), kind), chunk=chunk) for chunk in (None, 3)
    )
    assert difference(whole, chunks) < 1e-12 if right else difference(whole, chunks) > SEEN


@pytest.fixture(scope="module")
def ranks():
    """What two ranks found, and the gradients of the oracle."""
    networks = add_teachers(build("one_view"))
    OracleRun(networks)(0)
    expected = {name: grad for name, grad in gradients(networks).items() if ".critic." not in name}
    return run_processes(2, on_two_ranks)[0], expected


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("case", "right"),
    [
        ("right", True),
        ("contiguous rows", False),
        ("gather without gradient", False),
        ("gather with the gradient of own rows", False),
    ],
)
def test_two_ranks_against_the_oracle(ranks, case, right):
    found, expected = ranks
    grads = {key.partition("|")[2]: grad for key, grad in found.items() if key.startswith(f"{case}|")}
    assert difference(grads, expected) < 1e-11 if right else difference(grads, expected) > SEEN


@pytest.mark.distributed
def test_outputs_that_a_sharded_block_hides(ranks):
    """FSDP2 finds no tensor to hang its backward on: the run must end with an error or a difference."""
    found, expected = ranks
    grads = {key.partition("|")[2]: grad for key, grad in found.items() if key.startswith("hidden outputs|")}
    assert not grads or difference(grads, expected) > SEEN


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # dynamo hides its own, but not from filters that make errors of them
def test_compiled_blocks_have_the_gradients_of_plain_ones():
    plain, compiled = (
        gradients_of(ALONE, build("vtp"), chunk=3, compile=compile) for compile in (False, True)
    )
    assert difference(plain, compiled) < 1e-10
