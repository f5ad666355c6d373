"""A short `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.run.soak import soak


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thirty_kills_stops_and_full_disks_change_no_bit(tmp_path: Path):
    done = soak(tmp_path, faults=30, seed=11)
    assert not done.problems, "\n".join(done.problems)
    assert sum(done.faults.values()) == 30 and done.runs >= 5
