"""setup.py's switch VTP_BUILD_EXT, tried on a copy of the packaging with one small source file."""

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

# An operator and an importable module, as the real csrc/ registers them.
SOURCE = """
#include <Python.h>
#include <torch/csrc/stable/library.h>
static double twice(double x) { return 2 * x; }
STABLE_TORCH_LIBRARY(vtp_build_probe, m) { m.def("twice(float x) -> float"); }
STABLE_TORCH_LIBRARY_IMPL(vtp_build_probe, CompositeExplicitAutograd, m) {
  m.impl("twice", TORCH_BOX(&twice));
}
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C_cpu", nullptr, -1, nullptr};
PyMODINIT_FUNC PyInit__C_cpu(void) { return PyModule_Create(&module); }
"""
CUDA_SOURCE = """
#include <Python.h>
__global__ void nothing() {}
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C_cuda", nullptr, -1, nullptr};
PyMODINIT_FUNC PyInit__C_cuda(void) { nothing<<<1, 1>>>(); return PyModule_Create(&module); }
"""
FOLDER = "vtp_plugins/kernels"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler"),
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The packaging files with what builds the kernels."""
    folder = tmp_path / "project"
    notices = ("vtp_plugins/samples/data", "vtp_plugins/vtp_nano/data")
    for name in ("vtp_core", *notices, "recipes", "csrc/cpu", "csrc/cuda"):
        (folder / name).mkdir(parents=True)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder)
    for name in ("vtp_core/__init__.py", "vtp_plugins/__init__.py", "recipes/__init__.py"):
        (folder / name).touch()
    for name in notices:
        (folder / name / "README.md").touch()
    (folder / "csrc/cpu/module.cpp").write_text(SOURCE)
    (folder / FOLDER).mkdir()
    (folder / FOLDER / "__init__.py").touch()
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / FOLDER / "native", folder / FOLDER / "native", ignore=ignored)
    return folder


def build(project: Path, mode: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Builds a wheel and lists what is in it, its name first."""
    out = project / "out"
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(project / "build", ignore_errors=True)
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


def record(project: Path, names: list[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = json.loads(
        zipfile.ZipFile(project / "out" / names[0]).read(f"{FOLDER}/native_build.json")
    )
    return found


def libraries(names: list[str]) -> list[str]:
    return sorted(Path(name).name.split(".")[0] for name in names if name.endswith(".so"))


def test_a_source_is_compiled_and_its_operator_works(project: Path) -> None:
    done, names = build(project, "auto")
    assert done.returncode == 0, done.stdout + done.stderr
    assert libraries(names) == ["_C_cpu"] and "-cp311-abi3-" in names[0]
    assert record(project, names) == {"_C_cpu": None, "_C_cuda": "csrc/cuda has no sources"}
    zipfile.ZipFile(project / "out" / names[0]).extractall(project / "unpacked")
    code = "import torch, vtp_plugins.kernels._C_cpu; print(torch.ops.vtp_build_probe.twice(21.0))"
    environment = {**os.environ, "PYTHONPATH": str(project / "unpacked")}
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert ran.stdout.strip() == "42.0", ran.stderr


def test_a_build_in_place_leaves_library_and_record_beside_the_sources(project: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((project / FOLDER).glob("_C_cpu*.so"))) == 1
    assert json.loads((project / FOLDER / "native_build.json").read_text())["_C_cpu"] is None


def test_without_sources_it_is_pure_python_and_a_demanded_build_fails(project: Path) -> None:
    (project / "csrc/cpu/module.cpp").unlink()
    done, names = build(project, "auto")
    assert done.returncode == 0, done.stdout + done.stderr
    assert names[0].endswith("-py3-none-any.whl")
    assert record(project, names)["_C_cpu"] == "csrc/cpu has no sources"
    done, names = build(project, "1")
    assert done.returncode != 0 and not names
    assert "VTP_BUILD_EXT=1, but csrc/cpu has no sources" in done.stdout + done.stderr


def test_zero_builds_nothing_and_an_unknown_mode_is_refused(project: Path) -> None:
    done, names = build(project, "0")
    assert done.returncode == 0 and not libraries(names) and names[0].endswith("-py3-none-any.whl")
    assert record(project, names) == {"_C_cpu": "VTP_BUILD_EXT=0", "_C_cuda": "VTP_BUILD_EXT=0"}
    done, names = build(project, "yes")
    assert done.returncode != 0 and "use one of auto, 1, 0" in done.stdout + done.stderr


def test_without_a_compiler_it_is_pure_python(project: Path, tmp_path: Path) -> None:
    done, names = build(project, "auto", PATH=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert names[0].endswith("-py3-none-any.whl")
    assert record(project, names)["_C_cpu"] == "no C++ compiler on PATH"


def test_a_failing_compilation_is_recorded_under_auto_and_an_error_under_one(project: Path) -> None:
    (project / "csrc/cpu/module.cpp").write_text("#error not today\n")
    done, names = build(project, "auto")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not libraries(names) and "vtp_core/__init__.py" in names
    reason = record(project, names)["_C_cpu"]
    assert reason is not None and "not today" in reason and "module.cpp" in reason
    done, names = build(project, "1")
    assert done.returncode != 0 and not names
    assert "VTP_BUILD_EXT=1, but" in done.stdout + done.stderr


def test_cuda_sources_make_a_second_module_or_a_reason(project: Path) -> None:
    (project / "csrc/cuda/module.cu").write_text(CUDA_SOURCE)
    (project / "csrc/cuda/other.cu").write_text("__global__ void other() {}\n")
    done, names = build(project, "auto", TORCH_CUDA_ARCH_LIST="8.0")
    assert done.returncode == 0, done.stdout + done.stderr
    reason = record(project, names)["_C_cuda"]
    assert libraries(names) == (["_C_cpu"] if reason else ["_C_cpu", "_C_cuda"])
    done, names = build(project, "auto", TORCH_CUDA_ARCH_LIST="Hopper")
    assert done.returncode == 0, done.stdout + done.stderr
    again = record(project, names)
    assert libraries(names) == ["_C_cpu"] and again["_C_cpu"] is None
    assert again["_C_cuda"] == (
        reason or 'TORCH_CUDA_ARCH_LIST: "Hopper" is no architecture such as 8.0 or 9.0+PTX'
    )
