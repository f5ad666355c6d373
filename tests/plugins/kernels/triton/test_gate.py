"""The ahead-of-time gate: what it compiles, what it lets through, and that its table is up to date."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

pytest.importorskip("triton")

import triton

from vtp_plugins.kernels.triton.configuration import (
    ARCHITECTURES,
    HEAD_WIDTHS,
    SHARED_MEMORY,
    Number,
    Screen,
    ScreenTiles,
    Tiles,
    attention_tiles,
    padded_width,
    screen_tiles,
    sweep_tiles,
)
from vtp_plugins.kernels.triton.gate.__main__ import gate, main
from vtp_plugins.kernels.triton.gate.case import GateCase
from vtp_plugins.kernels.triton.gate.cases import all_cases
from vtp_plugins.kernels.triton.gate.compilation import Resources, compile_case
from vtp_plugins.kernels.triton.gate.table import problems, read_table, write_table

GOOD = Resources(registers=200, stack=0, spills=0, shared=1000, matrix={"HMMA": 4}, fused64=0)


SPILLS = {
    "sm_80 attention_backward_queries float32 d72 packed": 24,
    "sm_80 attention_backward_queries float32 d128 packed": 8,
    "sm_80 query_key_forward bfloat16 d128 rope only": 16,
    "sm_80 query_key_backward bfloat16 d128 rope only": 8,
    "sm_80 search_settle cosine splits1 float64": 8,
    "sm_90 attention_backward_queries float32 d96": 8,
    "sm_90 attention_forward float32 d128 packed": 8,
    "sm_90 search_settle l2 splits1 d40": 8,
    "sm_90 search_settle l2 splits1 strided": 8,
    "sm_100 attention_backward_keys bfloat16 d96 packed": 16,
    "sm_100 attention_backward_queries float32 d96": 16,
}
"""Bytes that are known to spill.

Of all tiles tried for masked float32 heads these spill least. Packed heads take the tiles of dense ones, and
those at other widths spill nothing when dense. The search and the rotation have registers left: the compiler
spills for more warps at a time.
"""


def case_named(text: str) -> GateCase:
    return next(case for case in all_cases() if text in case.name)


def test_each_kernel_has_a_case_for_each_architecture() -> None:
    cases = list(all_cases())
    assert len({case.name for case in cases}) == len(cases)
    kernels = {case.kernel for case in cases}
    assert len(kernels) == 9
    assert {(case.kernel, case.architecture) for case in cases} == {
        (kernel, architecture) for kernel in kernels for architecture in ARCHITECTURES
    }


def test_table_has_a_row_for_each_case_and_no_other() -> None:
    _, table = read_table()
    assert list(table) == [case.name for case in all_cases()]


def test_attention_has_a_case_for_each_tile_and_kind_of_width() -> None:
    numbers: tuple[Number, ...] = ("float32", "bfloat16", "float16")
    narrowest, widest = HEAD_WIDTHS
    asked = set()
    for architecture, number, width in product(ARCHITECTURES, numbers, range(narrowest, widest + 1)):
        tiles = attention_tiles(architecture, number, width)
        kind = (padded_width(width), padded_width(width) == width, width % 16 == 0)
        precision = "tf32x3" if number == "float32" else "ieee"
        for kernel, cut in (
            ("attention_forward", tiles.forward),
            ("attention_backward_queries", tiles.backward_queries),
            ("attention_backward_keys", tiles.backward_keys),
        ):
            asked.add((architecture, kernel, precision, kind, cut))
    found = set()
    for case in all_cases():
        if case.kernel.startswith("attention"):
            fixed = case.constants
            kind = (fixed["PADDED"], fixed["PADDED"] == fixed["WIDTH"], "q_token" not in case.unaligned)
            cut = Tiles(fixed["QUERIES"], fixed["KEYS"], case.warps, case.stages)
            found.add((case.architecture, case.kernel, fixed["PRECISION"], kind, cut))
    assert found == asked


def test_search_has_a_case_for_each_tile() -> None:
    screens: tuple[Screen, ...] = ("bfloat16", "tf32x3", "float32")
    asked = {
        (architecture, kernel, tiles)
        for architecture, screen, width in product(ARCHITECTURES, screens, range(1, 300))
        for kernel, tiles in (
            ("search_screen", screen_tiles(architecture, screen, width)),
            ("search_sweep", sweep_tiles(architecture, width)),
        )
    }
    found = set()
    for case in all_cases():
        if case.kernel in ("search_screen", "search_sweep"):
            sizes = [case.constants[name] for name in ("ROWS", "CODES", "COLUMNS")]
            found.add((case.architecture, case.kernel, ScreenTiles(*sizes, case.warps, case.stages)))
    assert found == asked


def test_the_table_allows_known_spills_only() -> None:
    _, table = read_table()
    assert {name: row["stack"] for name, row in table.items() if row["stack"] or row["spills"]} == SPILLS


def test_what_is_no_worse_passes() -> None:
    case = case_named("sm_80 attention_forward bfloat16 d64")
    row = GOOD.as_row()
    assert list(problems(case, GOOD, row)) == []
    assert list(problems(case, replace(GOOD, registers=255, shared=9000), row)) == []
    assert list(problems(case, GOOD, row | {"stack": 8, "spills": 2})) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stack": 8}, "spills 8 bytes"),
        ({"spills": 2}, "spills 0 bytes, 2 times; before: 0 bytes, 0 times"),
        ({"shared": SHARED_MEMORY[80] + 1}, "shared memory"),
        ({"matrix": {"HGMMA": 4}}, "has lost its HMMA"),
    ],
)
def test_what_is_worse_fails(change: dict[str, object], message: str) -> None:
    case = case_named("sm_80 attention_forward bfloat16 d64")
    [line] = problems(case, replace(GOOD, **change), GOOD.as_row())
    assert message in line
    assert line.startswith(case.name)


def test_what_the_table_cannot_excuse() -> None:
    attention, settle = case_named("sm_90 attention_forward"), case_named("sm_90 search_settle")
    none = replace(GOOD, matrix={})
    assert "no tensor core" in next(problems(attention, none, none.as_row()))
    fused = replace(GOOD, fused64=3)
    assert "rounded twice" in next(problems(settle, fused, fused.as_row()))
    assert list(problems(attention, fused, fused.as_row())) == []
    assert "no row" in next(problems(attention, GOOD, None))


def test_a_row_without_a_case_fails() -> None:
    name = next(iter(read_table()[1]))
    assert f"{name}: is in the table only; write it anew" in gate([], {}, whole=True)
    assert gate([], {}, whole=False) == []


def test_table_written_is_the_table_read(tmp_path: Path) -> None:
    table = {"a": GOOD.as_row(), "b": replace(GOOD, spills=1).as_row()}
    write_table(table, tmp_path / "table.json")
    version, rows = read_table(tmp_path / "table.json")
    assert version == triton.__version__
    assert rows == table
    assert len((tmp_path / "table.json").read_text().splitlines()) == 7
    json.loads((tmp_path / "table.json").read_text())


@pytest.mark.slow
def test_a_bad_setting_is_seen() -> None:
    """The compiler's own report, not the table: tiles that can't fit the registers spill."""
    case = case_named("sm_80 attention_backward_keys float32 d64")
    good = compile_case(case)
    bad = compile_case(replace(case, constants={**case.constants, "QUERIES": 64}))
    assert bad.spills > good.spills
    assert any("spills" in line for line in problems(case, bad, good.as_row()))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_kernels_are_as_the_table_says(capsys: pytest.CaptureFixture[str]) -> None:
    version, _ = read_table()
    if version != triton.__version__:
        pytest.skip(f"the table is of triton {version}, this is {triton.__version__}")
    assert main(["--jobs", "2"]) == 0, capsys.readouterr().err
