"""`docs/agreement.md` has exactly the rows that the tests declare."""

from __future__ import annotations

import math

import numpy
import pytest
import torch

from tests.agreement import (
    COMMAND,
    PAGE,
    Agreement,
    Recorder,
    Row,
    declared,
    declared_in,
    difference,
    read_page,
    render,
    unmeasured,
)

ROW = Row("SSIM", "torchmetrics", 1e-6)


def test_the_page_has_the_rows_versions_and_tolerances_of_the_tests() -> None:
    text = PAGE.read_text()
    page = read_page(text)
    assert list(page) == [row.cells for row in declared()], f"run {COMMAND}"
    assert text == render(declared(), page), f"run {COMMAND}"
    assert len(page) >= 30


def test_every_difference_of_the_page_is_within_its_tolerance() -> None:
    for cells, number in read_page(PAGE.read_text()).items():
        assert number <= float(cells[-1].split()[0]), cells


def test_rows_are_read_without_running_the_test() -> None:
    source = """
@pytest.mark.agrees("a", "timm", 1e-5, relative=True)
@pytest.mark.agrees("b", "theirs/code", tolerance=0, version="fixture c")
def test_a(agreement): agrees("no row")
"""
    assert declared_in(source) == [
        Row("a", "timm", 1e-5, relative=True),
        Row("b", "theirs/code", 0, version="fixture c"),
    ]
    with pytest.raises(ValueError, match="malformed"):
        declared_in("pytest.mark.agrees(NAME, 'timm', 0)")


def test_what_is_no_row_is_refused() -> None:
    for tolerance in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="tolerance"):
            Row("a", "timm", tolerance)
    with pytest.raises(ValueError, match="line break"):
        Row("a | b", "timm", 0)
    with pytest.raises(ValueError, match="give `version`"):
        _ = Row("a", "no-such-package", 0).cells


def test_the_difference_is_the_largest_one() -> None:
    assert difference(torch.tensor([1.0, 2.5]), [1.0, 2.0], False) == 0.5
    assert difference(numpy.float32(3), -4, True) == 7 / 4
    assert difference([1, -math.inf], torch.tensor([1.5, -math.inf]), True) == 0.5 / 1.5
    assert difference(True, torch.tensor(False), False) == 1
    for ours, theirs in (([1.0], 1.0), ([], []), (math.nan, math.nan), (math.inf, 1.0), (1.0, -math.inf)):
        with pytest.raises(AssertionError):
            difference(ours, theirs, False)


def test_a_difference_above_the_tolerance_fails_and_the_largest_is_kept() -> None:
    agreement = Agreement([ROW, Row("b", "timm", 0)])
    for wrong in (None, "c"):
        with pytest.raises((ValueError, KeyError)):
            agreement(1.0, 1.0, wrong)
    assert unmeasured([ROW], [("agrees", agreement.largest), ("other", 1)]) == ["SSIM"]
    for near in (1e-7, 3e-8):
        agreement(1.0, 1 + near, "SSIM")
    assert agreement.largest == {ROW.cells: pytest.approx(1e-7)}
    assert unmeasured([ROW], [("agrees", agreement.largest)]) == []
    with pytest.raises(AssertionError, match="SSIM"):
        agreement(1.0, 1.1, "SSIM")
    with pytest.raises(AssertionError, match="SSIM"):
        agreement.measured(math.nan, "SSIM")


def report(outcome: str, number: float, when: str = "call") -> pytest.TestReport:
    properties = [("agrees", {ROW.cells: number}), ("other", 1)]
    return pytest.TestReport("a", ("a", 1, "a"), {}, outcome, None, when, user_properties=properties)  # type: ignore[arg-type]


def test_the_page_is_written_from_tests_that_passed_and_read_again() -> None:
    recorder = Recorder()
    for outcome, number, when in (
        ("passed", 2.34e-7, "call"),
        ("passed", 1e-8, "call"),
        ("failed", 1, "call"),
        ("passed", 2, "teardown"),
    ):
        recorder.pytest_runtest_logreport(report(outcome, number, when))
    assert recorder.largest == {ROW.cells: 2.34e-7}
    assert read_page(render([ROW], recorder.largest)) == {ROW.cells: 2.3e-7}
