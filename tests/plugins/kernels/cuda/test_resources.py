"""The gate: no CUDA kernel may begin to spill, take more than it did, or lose its tensor cores."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.plugins.kernels.cuda.resources import ARCHITECTURES, TABLE, compiled
from vtp_plugins.kernels.native.toolkit import find

pytestmark = pytest.mark.slow

MORE_REGISTERS = 8
"""How many more a kernel may take before somebody has to look: another compiler allots them otherwise."""


@pytest.fixture(scope="session")
def table() -> dict[str, Any]:
    return dict(json.loads(TABLE.read_text()))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_take_what_the_table_says(architecture: str, table: dict[str, Any]) -> None:
    toolkit = find()
    if isinstance(toolkit, str):
        pytest.skip(toolkit)
    if toolkit.version != table["nvcc"]:
        pytest.skip(f"the table is of nvcc {table['nvcc']}, here is {toolkit.version}")
    wanted, found = table[architecture], compiled(architecture, toolkit)
    assert list(found) == list(wanted), "kernels came or went: write the table anew"
    for name, row in found.items():
        old = wanted[name]
        assert row["registers"] <= min(255, old["registers"] + MORE_REGISTERS), name
        for key in ("stack", "spills", "shared"):
            assert row[key] <= old[key], f"{name}: {key} {row[key]}, was {old[key]}"
        if "tensor" in row:
            assert (row["tensor"] > 0) == (old["tensor"] > 0), name
            assert row["fused64"] <= old["fused64"], name


def test_the_table_holds_what_the_kernels_are_meant_to_be(table: dict[str, Any]) -> None:
    for architecture in ARCHITECTURES:
        rows = table[architecture]
        assert not any(row["spills"] or row["stack"] or row["shared"] for row in rows.values())
        for name, row in rows.items():
            products = name.startswith(("attention_half", "attention_float", "screen_bf16"))
            assert (row["tensor"] > 0) == products, name
        # The definition of the distance rounds each product: nothing may be fused there.
        assert rows["choose"]["fused64"] == rows["scan"]["fused64"] == 0
