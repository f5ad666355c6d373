"""``vtp new-plugin``: what it writes works at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from vtp_core.errors import UsageError
from vtp_core.plugins import load_plugins
from vtp_plugins.new_plugin.command import TEMPLATES, new_plugin

REPOSITORY = Path(__file__).resolve().parents[3]


def write(folder, *arguments):
    return CliRunner().invoke(new_plugin, [*arguments, str(folder)])


@pytest.mark.parametrize("kind", TEMPLATES)
def test_files_are_complete_and_registered(tmp_path, monkeypatch, kind):
    folder = tmp_path / "plugin"
    name, package = f"my-{kind}", f"vtp_plugin_my_{kind}"
    done = write(folder, name, "--kind", kind)
    assert done.exit_code == 0, done.output
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == f"vtp-plugin-{name}"
    assert project["entry-points"]["vtp"] == {f"my_{kind}": f"{package}.plugin"}
    for file in ("README.md", ".gitignore", f"tests/test_{kind}.py", f"{package}/{kind}.py"):
        assert (folder / file).is_file()
    assert all(" $" not in file.read_text() and "${" not in file.read_text() for file in folder.rglob("*.*"))
    component = TEMPLATES[kind][0]
    (file,) = folder.glob("*/plugin.py")
    monkeypatch.syspath_prepend(folder)
    plugins = load_plugins([file], only=[])
    assert plugins.failures == []
    found = plugins.find(kind, f"plugin.{component}")
    assert found.summary == TEMPLATES[kind][2]
    assert found.load_config() is not None and isinstance(found.load_target(), type)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TEMPLATES)
def test_its_tests_pass(tmp_path, kind):
    assert write(tmp_path / "plugin", "probe", "--kind", kind).exit_code == 0
    paths = os.pathsep.join([str(tmp_path / "plugin"), str(REPOSITORY)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path / "plugin",
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_every_kind_is_typed_and_formatted(tmp_path):
    """What ruff and mypy can't check in a template they check in the files that it becomes."""
    packages = [f"vtp_plugin_my_{kind}" for kind in TEMPLATES]
    for kind in TEMPLATES:
        assert write(tmp_path / kind, f"my-{kind}", "--kind", kind).exit_code == 0
        for command in (["check", "--select", "E,F,I,UP,B"], ["format", "--diff"]):
            tool = [
                sys.executable,
                "-m",
                "ruff",
                command[0],
                "--isolated",
                "--line-length",
                "110",
                *command[1:],
            ]
            done = subprocess.run([*tool, "."], cwd=tmp_path / kind, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout
    paths = os.pathsep.join([str(REPOSITORY), *(str(tmp_path / kind) for kind in TEMPLATES)])
    options = ["--strict", "--untyped-calls-exclude", "torch", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *(word for name in packages for word in ("-p", name))],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", TEMPLATES)
def test_its_modules_need_one_import_of_the_core(tmp_path, kind):
    assert write(tmp_path / "plugin", "probe", "--kind", kind).exit_code == 0
    for file in (tmp_path / "plugin" / "vtp_plugin_probe").glob("*.py"):
        lines = [
            line for line in file.read_text().splitlines() if re.match(r"\s*(import|from) vtp_core", line)
        ]
        assert set(lines) <= {"import vtp_core as vtp"}, file.name


def test_the_default_folder_and_the_next_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(new_plugin, ["foo_bar"])
    assert done.exit_code == 0
    assert (tmp_path / "vtp-plugin-foo-bar" / "vtp_plugin_foo_bar" / "objective.py").is_file()
    assert "vtp plugins show foo_bar.mean_color" in done.output


@pytest.mark.parametrize("name", ["Foo", "1foo", "a.b", "../x", "class", "a--b", "a b", "x-"])
def test_impossible_names_are_refused(tmp_path, name):
    done = write(tmp_path / "plugin", name)
    assert isinstance(done.exception, UsageError) and not (tmp_path / "plugin").exists()


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    done = write(tmp_path, "foo")
    assert isinstance(done.exception, UsageError) and "not empty" in str(done.exception)
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]
