"""The built wheel holds everything that the sources have, and works outside of them.

`make wheel` builds it in isolation and names it in VTP_WHEEL; otherwise it is built here, from a copy.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "runs", "*.egg-info", "*.so")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if given := os.environ.get("VTP_WHEEL"):
        return REPOSITORY / given
    sources, out = tmp_path_factory.mktemp("copy") / "sources", tmp_path_factory.mktemp("wheel")
    shutil.copytree(REPOSITORY, sources, ignore=LEFT_OUT)
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(sources))
    return next(out.glob("vtp_core-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--target", str(folder), str(wheel))
    return folder


def vtp(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command of the installed wheel, away from the sources."""
    code = (
        "import sys, vtp_core, vtp_recipes; from vtp_core.cli.main import main\n"
        f"assert vtp_core.__file__.startswith({str(installed)!r}), vtp_core.__file__\n"
        f"assert vtp_recipes.__file__.startswith({str(installed)!r}), vtp_recipes.__file__\n"
        "main(sys.argv[1:])"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=installed.parent,
        env=environment,
        timeout=120,
        check=False,
    )


def test_the_wheel_is_pure_python_when_there_is_nothing_to_compile(wheel: Path) -> None:
    if not any((REPOSITORY / "csrc").rglob("*.cpp")) or "VTP_WHEEL" in os.environ:
        assert wheel.name.endswith("-py3-none-any.whl")


def test_the_wheel_holds_every_module_recipe_template_and_data_file(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", "vtp_core", "vtp_plugins", "recipes"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    tracked = listed.stdout.split("\n")[:-1] if listed.returncode == 0 else []
    if not tracked:
        pytest.skip("not a git checkout, so the list of source files is not known")
    expected = {f"vtp_{name}" if name.startswith("recipes/") else name for name in tracked}
    assert expected - inside == set()


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "vtp_core",
        "vtp_plugins",
        "vtp_recipes",
    }
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".cpp", ".cu"))]


def test_the_wheel_carries_the_licence_and_the_sources_of_the_sample_images(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(".dist-info/licenses/" in name and name.endswith("/LICENSE") for name in names)
    assert any(name.startswith("vtp_plugins/samples/data/") and name.endswith("README.md") for name in names)


def test_the_installed_wheel_lists_and_copies_recipes(installed: Path, tmp_path: Path) -> None:
    listed = vtp(installed, "recipes", "list")
    assert listed.returncode == 0, listed.stderr
    assert "quickstart" in listed.stdout
    copied = vtp(installed, "recipes", "copy", "quickstart", str(tmp_path))
    assert copied.returncode == 0, copied.stderr
    assert (tmp_path / "quickstart.toml").read_bytes() == (
        REPOSITORY / "recipes/quickstart.toml"
    ).read_bytes()
    checked = vtp(installed, "validate", str(tmp_path / "quickstart.toml"))
    assert checked.returncode == 0, checked.stderr


def test_the_doctor_of_the_installed_wheel_says_what_it_is(installed: Path) -> None:
    done = vtp(installed, "doctor", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout)
    assert not facts["vtp"]["editable"]
    assert facts["native"]["built"] == any(installed.glob("vtp_core/_native*.so"))
    assert not facts["plugins"]["failed"]
