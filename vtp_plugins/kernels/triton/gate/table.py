"""The checked-in table of resources, and the rules for what is worse than it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import triton

from vtp_plugins.kernels.triton.configuration import SHARED_MEMORY
from vtp_plugins.kernels.triton.gate.case import GateCase
from vtp_plugins.kernels.triton.gate.compilation import Resources

FILE = Path(__file__).with_name("resources.json")


def read_table(file: Path = FILE) -> tuple[str, dict[str, dict[str, Any]]]:
    """The version of triton that the table was made with, and the row of each case."""
    table = json.loads(file.read_text(encoding="utf-8"))
    return table["triton"], table["kernels"]


def write_table(table: Mapping[str, Mapping[str, Any]], file: Path = FILE) -> None:
    """Writes a table of one line a case, so that a change is easy to read."""
    rows = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in table.items())
    version = json.dumps(triton.__version__)
    file.write_text(f'{{\n  "triton": {version},\n  "kernels": {{\n{rows}\n  }}\n}}\n', encoding="utf-8")


def problems(case: GateCase, found: Resources, row: Mapping[str, Any] | None) -> Iterator[str]:
    """What is wrong with a compiled case, one line each.

    Args:
        case: The case.
        found: Its resources.
        row: Its row of the table, or None if it has none.
    """
    limit = SHARED_MEMORY[case.architecture]
    if found.shared > limit:
        yield f"{case.name}: takes {found.shared} bytes of shared memory, {limit} are there"
    if case.tensor_cores and not found.matrix:
        yield f"{case.name}: has no tensor core instruction"
    if not case.fusion and found.fused64:
        yield f"{case.name}: fuses {found.fused64} products with sums, but distances must be rounded twice"
    if row is None:
        yield f"{case.name}: has no row in the table; write it anew"
        return
    if found.stack > row["stack"] or found.spills > row["spills"]:
        now, before = (
            f"{found.stack} bytes, {found.spills} times",
            f"{row['stack']} bytes, {row['spills']} times",
        )
        yield f"{case.name}: spills {now}; before: {before}"
    for instruction in row["matrix"]:
        if instruction not in found.matrix:
            yield f"{case.name}: has lost its {instruction} instructions"
