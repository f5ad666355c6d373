"""Agreement with other people's code: tests declare rows and measure them; `docs/agreement.md` lists them.

A test declares a row with ``@pytest.mark.agrees(component, owner, tolerance)`` and measures it with the
fixture `agreement`. ``python -m tests.agreement write [TEST FILE ...]`` runs these tests and writes the page.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGE, TESTED = ROOT / "docs/agreement.md", ROOT / "requirements/tested.txt"
MARK = "agrees"
COMMAND = "python -m tests.agreement write"


@dataclass(frozen=True, order=True)
class Row:
    """What is compared with what, and how far the two may be apart.

    Attributes:
        component: part of this package that is compared.
        owner: distribution (its version is that of requirements/tested.txt), or whose published numbers.
        tolerance: largest difference allowed; 0 asks for the same numbers.
        version: of an owner that is no distribution, such as the name of a fixture.
        relative: divide by the largest magnitude of the owner's numbers.
    """

    component: str
    owner: str
    tolerance: float
    version: str | None = None
    relative: bool = False

    def __post_init__(self) -> None:
        """Refuses text that breaks the table, and tolerances that no difference can meet or miss."""
        if any(set("|\n") & set(text) for text in (self.component, self.owner, self.version or "")):
            raise ValueError(f"no | and no line break in {self}")
        if not 0 <= self.tolerance < float("inf"):
            raise ValueError(f"a finite tolerance from 0 on, not {self.tolerance}")

    @property
    def cells(self) -> tuple[str, str, str]:
        """Component, owner with version, tolerance: what CI compares with the page."""
        version = self.version or tested_versions().get(canonical(self.owner))
        if version is None:
            raise ValueError(f"{self.owner} is not in {TESTED.name}: give `version`")
        return self.component, f"{self.owner}, {version}", shown(self.tolerance) + " relative" * self.relative


def canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def tested_versions() -> dict[str, str]:
    """Pinned version of each distribution that the suite runs with."""
    pins = re.findall(r"^([\w.-]+)==([^;\s]+)", TESTED.read_text(), re.MULTILINE)
    return {canonical(name): version for name, version in pins}


def shown(number: float) -> str:
    return "0" if number == 0 else f"{number:.2g}"


def declared_in(source: str) -> list[Row]:
    """Rows that a test file declares, read without running it: arguments of the mark are literals."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [
        Row(
            *(ast.literal_eval(value) for value in call.args),
            **{str(item.arg): ast.literal_eval(item.value) for item in call.keywords},
        )
        for call in calls
        if isinstance(call.func, ast.Attribute) and ast.unparse(call.func) == f"pytest.mark.{MARK}"
    ]


def test_files() -> list[Path]:
    """Test files that declare rows."""
    found = sorted((ROOT / "tests").rglob("test_*.py"))
    return [path for path in found if f"@pytest.mark.{MARK}(" in path.read_text()]


def declared() -> list[Row]:
    """All rows, in the order of the page; a second declaration of the same comparison is refused."""
    rows = sorted(row for path in test_files() for row in declared_in(path.read_text()))
    for one, other in pairwise(rows):
        if one.cells[:2] == other.cells[:2]:
            raise ValueError(f"declared twice: {one.component} with {one.cells[1]}")
    return rows


def difference(ours: Any, theirs: Any, relative: bool) -> float:
    """Largest absolute difference in float64; infinities at the same places agree.

    Args:
        ours: numbers: a tensor, an array, a sequence or a scalar.
        theirs: numbers of the same shape, at least one.
        relative: divide by the largest magnitude of `theirs`.

    Raises:
        AssertionError: other shapes, no numbers, or a number that is not finite on one side alone.
    """
    mine, other = (
        (value.detach().cpu().double().numpy() if isinstance(value, torch.Tensor) else numpy.asarray(value))
        for value in (ours, theirs)
    )
    assert mine.shape == other.shape and mine.size, f"shapes {mine.shape} and {other.shape}"
    mine, other = mine.astype(numpy.float64), other.astype(numpy.float64)
    apart = mine != other
    if not apart.any():
        return 0.0
    largest = float(abs(mine[apart] - other[apart]).max())
    scale = float(abs(other[numpy.isfinite(other)]).max()) if relative else 1.0
    assert numpy.isfinite(largest) and scale > 0, f"difference {largest}, magnitude {scale}"
    return largest / scale


class Agreement:
    """Measures the rows that a test declares.

    Args:
        rows: the test's rows.

    Attributes:
        largest: the largest difference of each measured row, under the cells of the row.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = {row.component: row for row in rows}
        self.largest: dict[tuple[str, ...], float] = {}

    def __call__(self, ours: Any, theirs: Any, component: str | None = None) -> None:
        """Asserts that two sets of numbers agree; `component` names the row where a test has several."""
        self.measured(difference(ours, theirs, self._row(component).relative), component)

    def measured(self, value: float, component: str | None = None) -> None:
        """Asserts that a difference, computed in the test, is within the row's tolerance."""
        row = self._row(component)
        self.largest[row.cells] = max(float(value), self.largest.get(row.cells, 0.0))
        assert value <= row.tolerance, f"{row.component}, {row.cells[1]}: {value:.3g} > {row.tolerance:.3g}"

    def _row(self, component: str | None) -> Row:
        if component is None:
            (component,) = self._rows
        return self._rows[component]


def rows_of(item: pytest.Item) -> list[Row]:
    return [Row(*mark.args, **mark.kwargs) for mark in item.iter_markers(MARK)]


@pytest.fixture
def agreement(request: pytest.FixtureRequest) -> Agreement:
    """Measures what the test's marks declare; the report takes it along, also from a worker of xdist."""
    measured = Agreement(rows_of(request.node))
    request.node.user_properties.append((MARK, measured.largest))
    return measured


def unmeasured(rows: Iterable[Row], properties: Iterable[tuple[str, Any]]) -> list[str]:
    """Components that were declared, and that a test never measured."""
    seen = {cells for name, largest in properties if name == MARK for cells in largest}
    return [row.component for row in rows if row.cells not in seen]


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """A test that passes has measured each row that it declares."""
    result = yield
    if missing := unmeasured(rows_of(pyfuncitem), pyfuncitem.user_properties):
        pytest.fail(f"declared, and not measured: {', '.join(missing)}")
    return result


class Recorder:
    """Gathers the largest difference of each row over all tests that passed."""

    def __init__(self) -> None:
        self.largest: dict[tuple[str, ...], float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes the measured differences of a test; reports of workers come here too."""
        if report.when != "call" or not report.passed:
            return
        for name, largest in report.user_properties:
            for cells, number in largest.items() if name == MARK else ():  # type: ignore[attr-defined]
                self.largest[tuple(cells)] = max(number, self.largest.get(tuple(cells), 0.0))


HEAD = f"""# Agreement with other people's code

Each row is a test: a part of this package beside code or published numbers of somebody else, on the same
input. The difference is the largest absolute one over all compared numbers; "relative" divides it by the
largest magnitude of the owner's numbers, and 0 means the same numbers. Packages have the versions of
[requirements/tested.txt](../requirements/tested.txt).

Written by `{COMMAND}` from the tests. CI compares rows, versions and tolerances
with the tests, and each run of a test must stay within the tolerance.

| component | compared with | largest difference measured | tolerance |
| --- | --- | --- | --- |
"""


def render(rows: Iterable[Row], largest: Mapping[tuple[str, ...], float]) -> str:
    """The page."""
    lines = []
    for row in rows:
        component, owner, tolerance = row.cells
        lines.append(f"| {component} | {owner} | {shown(largest[row.cells])} | {tolerance} |\n")
    return HEAD + "".join(lines)


def read_page(text: str) -> dict[tuple[str, ...], float]:
    """Largest difference of each (component, owner with version, tolerance) of a page."""
    table = re.findall(r"^\| (.+) \| (.+) \| (\d\S*) \| (.+) \|$", text, re.MULTILINE)
    return {(component, owner, tolerance): float(number) for component, owner, number, tolerance in table}


def write(files: Sequence[str]) -> int:
    """Runs the tests that declare rows and writes the page.

    Args:
        files: test files to run, all by default; rows of other files keep what the page says.

    Returns:
        Exit status: that of pytest, or 1 if a row was not measured or a package has another version.
    """
    recorder = Recorder()
    paths = list(files) or [str(path) for path in test_files()]
    status = pytest.main(["-q", "-m", MARK, *paths], plugins=[recorder])
    if status != pytest.ExitCode.OK:
        return int(status)
    largest = {**read_page(PAGE.read_text() if PAGE.exists() else ""), **recorder.largest}
    rows, pins = declared(), tested_versions()
    problems = [f"not measured: {', '.join(row.cells)}" for row in rows if row.cells not in largest]
    for name in {row.owner for row in rows if row.version is None}:
        if (found := importlib.metadata.version(name)) != pins[canonical(name)]:
            problems.append(f"{name} is {found} here, and {pins[canonical(name)]} in {TESTED.name}")
    if not problems:
        PAGE.write_text(render(rows, largest))
    print("\n".join(problems) or f"{PAGE.relative_to(ROOT)}: {len(rows)} rows")
    return 1 if problems else 0


if __name__ == "__main__":
    if sys.argv[1:2] != ["write"]:
        sys.exit(f"usage: {COMMAND} [TEST FILE ...]")
    sys.exit(write(sys.argv[2:]))
