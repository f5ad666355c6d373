from __future__ import annotations

import shutil
import sys

import pytest

from vtp_plugins.bench.case import CaseError, load
from vtp_plugins.bench.config import BenchOptions
from vtp_plugins.bench.memory import peak_bytes, peak_of

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="counts on glibc only"
)


@pytest.mark.slow
def test_a_score_matrix_is_counted_and_a_blocked_search_holds_far_less() -> None:
    options = BenchOptions()
    case = load("nearest_code", "2000x3000x4", options)
    matrix = 2000 * 3000 * 4
    plain = peak_bytes(case, "matmul + argmax", options)
    assert matrix <= plain <= 2.2 * matrix, "the scores, and their difference"
    assert peak_bytes(case, "addmm, 256 rows", options) < matrix / 4


def test_without_the_counter_nothing_is_made_up() -> None:
    case = load("nearest_code", "4x4x4", BenchOptions(peers=False))
    with pytest.raises(RuntimeError, match="not loaded"):
        peak_of(case.variants["vtp"])


@pytest.mark.slow
def test_a_child_that_fails_is_an_error_with_its_last_line() -> None:
    case = load("nearest_code", "4x4x4", BenchOptions(peers=False))
    with pytest.raises(CaseError, match="nobody: counting the memory failed: KeyError: 'nobody'"):
        peak_bytes(case, "nobody", BenchOptions(peers=False))
