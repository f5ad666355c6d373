"""The shape of the source tree: what CONTRIBUTING.md promises a reader."""

from __future__ import annotations

import ast
import importlib.metadata
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("vtp_core", "vtp_plugins")
MOST_LINES = {"vtp_core": 300, "vtp_plugins": 400}
MOST_FILES = 20  # of a folder of the core
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
# Folders of vtp_plugins that hold what several plugins share and register nothing themselves.
LIBRARIES = {"pretrained", "probes", "tar_shards", "transformers"}


def modules(*packages: str) -> list[Path]:
    found = [path for package in packages for path in (REPOSITORY / package).rglob("*.py")]
    return sorted(path for path in found if "templates" not in path.parts)


def plugin_folders() -> list[Path]:
    folders = {path.parent for path in (REPOSITORY / "vtp_plugins").glob("*/*.py")}
    return sorted(path for path in folders if path.name not in LIBRARIES)


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def imported(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports anywhere, functions and type checking included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = relative(path.parent).split("/")
            prefix = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            names.add(".".join(filter(None, (prefix, node.module))))
    return names


@pytest.mark.parametrize("path", modules(*PACKAGES), ids=relative)
def test_a_file_is_short(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES[path.relative_to(REPOSITORY).parts[0]], f"{lines} lines: split it by subject"


def test_no_folder_of_the_core_is_crowded() -> None:
    crowded = {
        relative(folder): count
        for folder in {path.parent for path in modules("vtp_core")}
        if (count := len(list(folder.glob("*.py")))) > MOST_FILES
    }
    assert not crowded, f"more than {MOST_FILES} files: divide by subject"


def test_the_joint_step_can_be_read_in_ten_minutes() -> None:
    joint = REPOSITORY / "vtp_core/training/joint.py"
    assert len(joint.read_text().splitlines()) < 200


def test_no_file_is_named_for_nothing() -> None:
    everything = modules(*PACKAGES, "tests", "benchmarks", "examples")
    bad = [
        relative(path)
        for path in everything
        if FORBIDDEN_NAMES & {part.strip("_") for part in path.with_suffix("").parts[len(REPOSITORY.parts) :]}
    ]
    assert not bad, "name a file for its subject"


@pytest.mark.parametrize("folder", plugin_folders(), ids=lambda path: path.name)
def test_a_plugin_folder_has_the_usual_files(folder: Path) -> None:
    names = {path.name for path in folder.glob("*.py")}
    assert {"__init__.py", "plugin.py"} <= names
    assert "config.py" in names or "config=" not in (folder / "plugin.py").read_text()


def test_every_plugin_folder_is_an_entry_point_and_the_other_way_round() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    folders = {path.name: f"vtp_plugins.{path.name}.plugin" for path in plugin_folders()}
    assert project["entry-points"]["vtp"] == folders


def test_the_installed_entry_points_are_those_of_the_sources() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    installed = importlib.metadata.distribution("vtp-core").entry_points.select(group="vtp")
    assert {item.name: item.value for item in installed} == project["entry-points"]["vtp"], "install again"


def test_a_plugin_file_holds_only_hooks() -> None:
    for folder in plugin_folders():
        tree = ast.parse((folder / "plugin.py").read_text())
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert functions and all(name.startswith("register_") for name in functions), folder.name
        assert not [node for node in tree.body if isinstance(node, ast.ClassDef)], folder.name


@pytest.mark.parametrize("path", sorted((REPOSITORY / "vtp_plugins").glob("*/loss.py")), ids=relative)
def test_loss_mathematics_imports_nothing_of_ours(path: Path) -> None:
    """Nothing but files beside it for which the same holds."""
    folder = f"vtp_plugins.{path.parent.name}."
    waiting, seen = [path], set[Path]()
    while waiting:
        seen.add(file := waiting.pop())
        ours = {name for name in imported(file) if name.split(".")[0] in PACKAGES}
        beside = {
            path.parent / f"{name.removeprefix(folder).split('.')[0]}.py"
            for name in ours
            if name.startswith(folder)
        }
        assert not [name for name in ours if not name.startswith(folder)], relative(file)
        assert not {"config.py", "plugin.py", "objective.py"} & {file.name for file in beside}, relative(file)
        waiting += beside - seen


def test_the_core_imports_no_plugin() -> None:
    """Import-linter sees modules; this also sees imports for type checking alone."""
    bad = [
        relative(path)
        for path in modules("vtp_core")
        if any(name.startswith("vtp_plugins") for name in imported(path))
    ]
    assert not bad


def test_modules_hold_no_state() -> None:
    """A `global` statement is the sign of it; registries and caches belong to objects."""
    stateful = []
    for path in modules(*PACKAGES):
        if any(isinstance(node, ast.Global) for node in ast.walk(ast.parse(path.read_text()))):
            stateful.append(relative(path))
    assert not stateful
