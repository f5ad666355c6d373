"""What `vtp doctor` and `vtp kernels list` say of implementations and native modules."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from vtp_core.ops import AttentionKernel, attention_choice
from vtp_core.plugins import Plugins, Register, diagnose, hookimpl, load_plugins
from vtp_plugins.kernels import listing
from vtp_plugins.kernels.native import build, loading


def with_record(monkeypatch: pytest.MonkeyPatch, folder: Path, record: dict[str, str | None] | None) -> None:
    """A package folder with this record; the modules of this process stay loaded."""
    if record is not None:
        (folder / "native_build.json").write_text(json.dumps(record))
    monkeypatch.setattr(listing, "library", lambda module: build.library(module, folder))
    monkeypatch.setattr(loading, "recorded", lambda: build.recorded(folder))


@pytest.mark.parametrize(
    ("files", "record", "expected"),
    [
        (["_C_cpu"], {"_C_cpu": None, "_C_cuda": "no nvcc"}, [None, "no nvcc"]),
        (
            [],
            {"_C_cpu": None},
            [
                "the library was removed; run vtp kernels build",
                "nothing was compiled while installing; run vtp kernels build",
            ],
        ),
        ([], None, ["nothing was compiled while installing; run vtp kernels build"] * 2),
        (["_C_cpu", "_C_cuda"], None, [None, None]),
    ],
)
def test_what_was_built_and_why_not(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    files: list[str],
    record: dict[str, str | None] | None,
    expected: list[str | None],
) -> None:
    with_record(monkeypatch, tmp_path, record)
    for module in files:
        build.library(module, tmp_path).touch()
    rows = listing.native_modules()
    assert [row["module"] for row in rows] == ["_C_cpu", "_C_cuda"]
    assert [row["reason"] for row in rows] == expected
    assert [row["built"] for row in rows] == [reason is None for reason in expected]
    for row, line, reason in zip(rows, listing.diagnose().facts["native"], expected, strict=True):
        assert line == f"{row['module']} " + ("built" if reason is None else f"not built: {reason}")


def test_a_module_that_was_built_and_does_not_load_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_record(monkeypatch, tmp_path, None)
    build.library("_C_cpu", tmp_path).touch()
    reasons = {"_C_cpu": "can't be loaded: undefined symbol", "_C_cuda": "is not built: no nvcc"}
    monkeypatch.setattr(listing, "why_missing", reasons.get)
    (problem,) = listing.diagnose().problems
    assert problem == "_C_cpu can't be loaded: undefined symbol; run vtp kernels build"


def kernel(name: str, missing: str | None) -> AttentionKernel:
    return replace(attention_choice("sdpa").kernels[0], name=name, device="cpu", missing=lambda: missing)


def with_kernels(monkeypatch: pytest.MonkeyPatch, **targets: object) -> None:
    @hookimpl
    def register_kernels(register: Register) -> None:
        for name, target in targets.items():
            register(name, target)

    loaded = Plugins()
    loaded.add(SimpleNamespace(vtp_api=2, register_kernels=register_kernels), "foo")
    monkeypatch.setattr(listing, "load_plugins", lambda: loaded)


def test_kernels_of_plugins_come_first_with_the_reason_why_one_can_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_kernels(monkeypatch, fast=kernel("fast", None), lost=kernel("lost", "is not built: no compiler"))
    rows = listing.implementations()
    attention = [row for row in rows if row["operator"] == "attention"]
    assert [(row["name"], row["device"], row["missing"]) for row in attention[:2]] == [
        ("foo.fast", "cpu", None),
        ("foo.lost", "cpu", "is not built: no compiler"),
    ]
    assert any(row["operator"] == "nearest_code" and row["name"] == "reference" for row in rows)
    lines = listing.diagnose().facts["kernels"]
    assert "attention foo.fast: ready" in lines
    assert "attention foo.lost: is not built: no compiler" in lines


def test_a_kernel_that_can_not_be_imported_is_listed_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with_kernels(monkeypatch, gone="no_such_module:KERNEL")
    (row,) = [row for row in listing.implementations() if row["name"] == "foo.gone"]
    assert row["operator"] is None and "No module named 'no_such_module'" in row["missing"]
    assert any(line.startswith("foo.gone: kernel") for line in listing.diagnose().facts["kernels"])


def test_the_plugin_offers_its_diagnosis() -> None:
    (component,) = load_plugins(only=["kernels"]).components("diagnostic")
    assert component.name == "kernels"
    assert list(diagnose(component).facts) == ["native", "kernels", "measured"]
