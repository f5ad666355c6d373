"""docs/reliability.md has every fault, and the tests that it names exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs/reliability.md"
ROWS = [line for line in PAGE.read_text().splitlines() if re.match(r"\| \d+ \|", line)]
FAULTS = 46


def test_every_fault_has_a_row() -> None:
    assert [int(row.split("|")[1]) for row in ROWS] == list(range(1, FAULTS + 1))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"fault {row.split('|')[1].strip()}")
def test_the_tests_of_a_row_exist(row: str) -> None:
    number, fault, behaviour, shown = (cell.strip() for cell in row.strip("|").split("|"))
    assert fault and behaviour, number
    named = re.findall(r"`(tests/[^`]+)`", shown)
    assert named, f"row {number} names no test"
    for name in named:
        path, _, function = name.partition("::")
        tree = ast.parse((REPOSITORY / path).read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not function or function in functions, f"row {number}: {name} does not exist"
