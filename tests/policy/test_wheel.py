"""The built wheel holds everything that the sources have, and works outside of them.

`make wheel` builds it in isolation and names it in VTP_WHEEL; otherwise it is built here, from a copy.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.plugins.diffusers import documented
from vtp_plugins.kernels.native.build import library, obstacle

REPOSITORY = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "runs", "*.egg-info", "*.so")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    environment = {**os.environ, "TORCH_CUDA_ARCH_LIST": "8.0"}  # one is quicker than all
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
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


def vtp(installed: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command of the installed wheel, away from the sources."""
    code = (
        "import sys, vtp_core, vtp_recipes; from vtp_core.cli.main import main\n"
        f"assert vtp_core.__file__.startswith({str(installed)!r}), vtp_core.__file__\n"
        f"assert vtp_recipes.__file__.startswith({str(installed)!r}), vtp_recipes.__file__\n"
        "main(sys.argv[1:])"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed), **environment}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=installed.parent,
        env=environment,
        timeout=600,
        check=False,
    )


def test_a_wheel_that_is_built_in_isolation_is_pure_python(wheel: Path) -> None:
    if "VTP_WHEEL" not in os.environ:
        pytest.skip("make wheel builds it in isolation")
    assert wheel.name.endswith("-py3-none-any.whl")


def test_a_wheel_that_is_built_beside_torch_holds_the_native_module(wheel: Path) -> None:
    if "VTP_WHEEL" in os.environ or (reason := obstacle("_C_cpu")):
        pytest.skip("built in isolation" if "VTP_WHEEL" in os.environ else f"_C_cpu: {reason}")
    assert "-cp311-abi3-" in wheel.name
    assert library("_C_cpu", Path("vtp_plugins/kernels")).as_posix() in zipfile.ZipFile(wheel).namelist()


def test_the_wheel_holds_every_module_recipe_template_and_data_file(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", "vtp_core", "vtp_plugins", "recipes", "csrc/cpu", "csrc/cuda"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    tracked = listed.stdout.split("\n")[:-1] if listed.returncode == 0 else []
    if not tracked:
        pytest.skip("not a git checkout, so the list of source files is not known")
    moved = {"recipes": "vtp_recipes", "csrc": "vtp_plugins/kernels/csrc"}
    expected = {f"{moved.get(top, top)}/{rest}" for top, _, rest in (name.partition("/") for name in tracked)}
    assert expected - inside == set()


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "vtp_core",
        "vtp_plugins",
        "vtp_recipes",
    }
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".o"))]
    compiled = [name for name in names if name.endswith((".cpp", ".cu", ".h", ".cuh"))]
    assert not [name for name in compiled if not name.startswith("vtp_plugins/kernels/csrc/")]


def test_the_wheel_carries_the_license_and_the_sources_of_the_sample_images(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(".dist-info/licenses/" in name and name.endswith("/LICENSE") for name in names)
    assert any(name.startswith("vtp_plugins/samples/data/") and name.endswith("README.md") for name in names)


def test_vtp_nano_in_a_pipeline_of_diffusers_with_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """In a virtual environment that sees the packages of this one, torch and diffusers among them."""
    venv.create(tmp_path / "env", with_pip=False)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    seen = [path for path in map(Path, sys.path) if path.name == "site-packages"]
    (site / "seen.pth").write_text("".join(f"{path}\n" for path in seen))
    pip("install", "--no-deps", "--target", str(site), str(wheel))
    code = documented.lines() + (
        "\nimport vtp_core\n"
        f"assert vtp_core.__file__.startswith({str(site)!r}), vtp_core.__file__\n"
        "assert [image.size for image in images] == [(64, 64)] * 2\n"
    )
    done = subprocess.run(
        [tmp_path / "env/bin/python", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr


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
    assert not facts["plugins"]["failed"]
    assert facts["diagnostics"]["kernels"]["error"] is None


def test_the_kernels_of_the_installed_wheel_are_those_that_were_built(installed: Path) -> None:
    done = vtp(installed, "kernels", "list", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout)
    for item in facts["native"]:
        assert item["built"] == any(installed.glob(f"vtp_plugins/kernels/{item['module']}*.so"))
        assert item["built"] == (item["reason"] is None)
    reasons = {item["missing"] for item in facts["kernels"] if item["device"] == "cpu"}
    assert reasons <= {None} if facts["native"][0]["built"] else None not in reasons


def test_the_installed_wheel_builds_its_own_kernels(installed: Path, tmp_path: Path) -> None:
    if "VTP_WHEEL" not in os.environ or (reason := obstacle("_C_cpu")):
        pytest.skip(f"_C_cpu: {reason}" if "VTP_WHEEL" in os.environ else "make wheel builds them")
    made = library("_C_cpu", installed / "vtp_plugins/kernels")
    assert not made.exists(), "built in isolation"
    built = vtp(installed, "kernels", "build", XDG_CACHE_HOME=str(tmp_path), TORCH_CUDA_ARCH_LIST="8.0")
    assert built.returncode == 0, built.stdout + built.stderr
    assert str(made) in built.stdout and made.is_file()
    listed = vtp(installed, "kernels", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    assert json.loads(listed.stdout)["cpu_isa"] in ("portable", "avx2", "avx512", "avx512bf16")
