"""What a plan says of other row chunks is what the plan of a recipe with those chunks says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plugins.plan.recipes import CLIP, TEXT, recipe
from vtp_core.plugins import load_plugins
from vtp_plugins.plan.fits import Fit, chunk_sizes, say_what_fits
from vtp_plugins.plan.memory import GIB
from vtp_plugins.plan.plan import make_plan

PLUGINS = load_plugins()
FITS = [
    Fit(microbatch_rows=rows, memory=gib * GIB, flops=1)
    for rows, gib in ((None, 40), (8, 20), (4, 12), (2, 9))
]


@given(st.integers(1, 5000))
def test_sizes_are_all_rows_and_the_powers_of_two_below(rows: int) -> None:
    first, *powers = chunk_sizes(rows)
    assert first is None
    assert powers == [size for size in (4096 >> i for i in range(13)) if size < rows]


@pytest.mark.slow
def test_each_line_is_the_plan_with_those_chunks(tmp_path: Path) -> None:
    plan = make_plan(recipe(tmp_path, PLUGINS, text=TEXT + CLIP), PLUGINS, 2)
    assert [fit.microbatch_rows for fit in plan.fits] == [None, 8, 4, 2, 1]  # 12 rows a rank of one view
    assert (plan.fits[0].memory, plan.fits[0].flops) == (plan.memory.total, plan.flops)
    for rows in (8, 2):
        same = make_plan(
            recipe(tmp_path, PLUGINS, f"run.microbatch_rows={rows}", text=TEXT + CLIP), PLUGINS, 2
        )
        (fit,) = (fit for fit in plan.fits if fit.microbatch_rows == rows)
        assert (fit.memory, fit.flops) == (same.memory.total, same.flops)
        assert same.fits == plan.fits
    memories = [fit.memory for fit in plan.fits]
    assert memories == sorted(memories, reverse=True) and memories[-1] < memories[0]
    assert plan.fits[-1].flops > plan.fits[0].flops
    assert [each["microbatch_rows"] for each in plan.data()["fits"]] == [None, 8, 4, 2, 1]


@pytest.mark.parametrize(
    ("gib", "said"),
    [
        (40, "all rows at once fit 40 GiB"),
        (15.5, "run.microbatch_rows = 4 is the largest that fits 15.5 GiB"),
        (9, "run.microbatch_rows = 2 is the largest"),
        (8, "no chunk size fits 8 GiB, the least is 9 GiB; try parallel.shard"),
    ],
)
def test_the_largest_chunks_that_fit_are_named(gib: float, said: str) -> None:
    assert say_what_fits(FITS, gib).startswith(said)
