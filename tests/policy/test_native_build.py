"""setup.py's switch VTP_BUILD_EXT, tried on a copy of the packaging with one small source file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

# An operator and an importable module, as the real csrc/ registers them.
SOURCE = """
#include <Python.h>
#include <torch/library.h>
static double twice(double x) { return 2 * x; }
TORCH_LIBRARY(vtp_build_probe, m) { m.def("twice(float x) -> float", &twice); }
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native", nullptr, -1, nullptr};
extern "C" PyObject* PyInit__native(void) { return PyModule_Create(&module); }
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler"),
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The packaging files with a package of one file."""
    folder = tmp_path / "project"
    for name in ("vtp_core", "vtp_plugins/samples/data", "recipes", "csrc"):
        (folder / name).mkdir(parents=True)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder)
    for name in ("vtp_core/__init__.py", "vtp_plugins/__init__.py", "recipes/__init__.py"):
        (folder / name).touch()
    (folder / "vtp_plugins/samples/data/README.md").touch()
    return folder


def build(project: Path, mode: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Builds a wheel and lists what is in it."""
    out = project / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "-v",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
    ]
    done = subprocess.run(
        [*command, str(project)],
        capture_output=True,
        text=True,
        env={**os.environ, "VTP_BUILD_EXT": mode, "MAX_JOBS": "2", **environment},
        timeout=600,
        check=False,
    )
    wheels = list(out.glob("*.whl"))
    return done, [wheels[0].name, *zipfile.ZipFile(wheels[0]).namelist()] if wheels else []


def has_library(names: list[str]) -> bool:
    return any(name.startswith("vtp_core/_native") and name.endswith(".so") for name in names)


def test_a_source_is_compiled_and_its_operator_works(project: Path) -> None:
    (project / "csrc/registration.cpp").write_text(SOURCE)
    done, names = build(project, "auto")
    assert done.returncode == 0, done.stdout + done.stderr
    assert has_library(names)
    assert "-cp311-abi3-" in names[0]
    zipfile.ZipFile(project / "out" / names[0]).extractall(project / "unpacked")
    code = "import torch, vtp_core._native; print(torch.ops.vtp_build_probe.twice(21.0))"
    command = [sys.executable, "-P", "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(project / "unpacked")}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert ran.stdout.strip() == "42.0", ran.stderr


def test_without_sources_it_is_pure_python_and_a_demanded_build_fails(project: Path) -> None:
    done, names = build(project, "auto")
    assert done.returncode == 0 and names[0].endswith("-py3-none-any.whl")
    assert "pure Python, no native kernels (csrc/ has no sources)" in done.stdout + done.stderr
    done, names = build(project, "1")
    assert done.returncode != 0 and not names
    assert "VTP_BUILD_EXT=1, but csrc/ has no sources" in done.stdout + done.stderr


def test_zero_builds_nothing_and_an_unknown_mode_is_refused(project: Path) -> None:
    (project / "csrc/registration.cpp").write_text(SOURCE)
    done, names = build(project, "0")
    assert done.returncode == 0 and not has_library(names)
    done, names = build(project, "yes")
    assert done.returncode != 0 and "use one of auto, 1, 0" in done.stdout + done.stderr


def test_a_failing_compilation_is_a_warning_under_auto_and_an_error_under_one(project: Path) -> None:
    (project / "csrc/registration.cpp").write_text("#error not today\n")
    done, names = build(project, "auto")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not has_library(names) and "vtp_core/__init__.py" in names
    assert "native kernels not built" in done.stdout + done.stderr
    done, names = build(project, "1")
    assert done.returncode != 0 and not names
