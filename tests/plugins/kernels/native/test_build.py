from __future__ import annotations

import json
import os
import shlex
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from vtp_plugins.kernels.native import build as native
from vtp_plugins.kernels.native import loading
from vtp_plugins.kernels.native.compiler import BuildFailed, cxx
from vtp_plugins.kernels.native.toolkit import Toolkit

KIT = Toolkit(Path("/opt/cuda"), "99.1", ("8.0",))


@pytest.fixture
def with_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "sources", lambda module: [Path("csrc/cpu/module.cpp")])
    monkeypatch.setattr(native, "cxx", lambda: ["c++"])
    monkeypatch.setattr(native, "torch_folder", lambda: Path(torch.__file__).parent)


def test_no_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "sources", lambda module: [])
    assert native.obstacle("_C_cuda") == "csrc/cuda has no sources"


@pytest.mark.usefixtures("with_sources")
def test_what_a_build_needs_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as changed:
        changed.setattr(native, "cxx", lambda: None)
        assert native.obstacle("_C_cpu") == "no C++ compiler on PATH"
    with monkeypatch.context() as changed:
        changed.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
        assert native.obstacle("_C_cpu") == "Python's headers are not installed (Python.h)"
    with monkeypatch.context() as changed:
        changed.setattr(native, "torch_folder", lambda: None)
        assert "use pip install --no-build-isolation" in (native.obstacle("_C_cpu") or "")


@pytest.mark.usefixtures("with_sources")
@pytest.mark.parametrize(
    ("cuda", "kit", "expected"),
    [
        (None, KIT, "the installed torch is built without CUDA"),
        ("99.0", KIT, None),
        ("98.0", KIT, "/opt/cuda is CUDA 99.1, the installed torch is built for 98.0"),
        ("99.0", "no CUDA toolkit", "no CUDA toolkit"),
    ],
)
def test_what_cuda_needs(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cuda: str | None,
    kit: Toolkit | str,
    expected: str | None,
) -> None:
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        pytest.skip("no Python.h")
    (tmp_path / "version.py").write_text(f"__version__ = '3.0'\ncuda = {cuda!r}\n")
    monkeypatch.setattr(native, "torch_folder", lambda: tmp_path)
    monkeypatch.setattr(native.cuda, "find", lambda: kit)
    assert native.obstacle("_C_cuda") == expected


def test_an_obstacle_fails_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native, "obstacle", lambda module: "no C++ compiler on PATH")
    with pytest.raises(BuildFailed, match="no C\\+\\+ compiler on PATH"):
        native.build("_C_cpu", tmp_path / "out.so", tmp_path)


def test_the_version_of_torch_is_read_without_importing_it() -> None:
    folder = native.torch_folder()
    assert folder == Path(torch.__file__).parent
    assert native.torch_version(folder) == torch.__version__


def test_the_record_keeps_what_it_is_not_told(tmp_path: Path) -> None:
    assert native.recorded(tmp_path) == {}
    native.record(tmp_path, {"_C_cpu": None, "_C_cuda": "no nvcc"})
    native.record(tmp_path, {"_C_cuda": None})
    assert native.recorded(tmp_path) == {"_C_cpu": None, "_C_cuda": None}
    (tmp_path / native.RECORD).write_text("[1")
    assert native.recorded(tmp_path) == {}


def test_a_library_of_other_sources_does_not_stay(tmp_path: Path) -> None:
    for module in ("_C_cpu", "_C_cuda"):
        native.library(module, tmp_path).touch()
    native.record(tmp_path, {"_C_cpu": None, "_C_cuda": "nvcc failed"})
    assert native.library("_C_cpu", tmp_path).is_file()
    assert not native.library("_C_cuda", tmp_path).exists()


def test_the_library_serves_later_pythons() -> None:
    assert native.library("_C_cpu").name.startswith("_C_cpu.abi3") or sys.platform == "win32"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({}, "nothing was compiled while installing; run vtp kernels build"),
        ({"_C_cpu": "no C++ compiler on PATH"}, "no C++ compiler on PATH"),
        ({"_C_cpu": None}, "the library was removed; run vtp kernels build"),
    ],
)
def test_why_a_module_is_not_there(
    monkeypatch: pytest.MonkeyPatch, record: dict[str, str | None], expected: str
) -> None:
    monkeypatch.setattr(loading, "recorded", lambda: json.loads(json.dumps(record)))
    monkeypatch.setattr(loading.importlib, "import_module", _raise(ModuleNotFoundError("No module")))
    assert loading.why_missing.__wrapped__("_C_cpu") == f"is not built: {expected}"


def test_a_library_for_another_torch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading.importlib, "import_module", _raise(ImportError("undefined\nsymbol: aoti_x")))
    assert loading.why_missing.__wrapped__("_C_cpu") == "can't be loaded: undefined symbol: aoti_x"


def _raise(error: Exception) -> object:
    def fail(name: str) -> None:
        raise error

    return fail


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only source of `_C_cpu`; says where it is."""
    path = tmp_path / "csrc/cpu/where.cpp"
    path.parent.mkdir(parents=True)
    path.write_text(
        'extern "C" __attribute__((visibility("default"))) const char* where() { return __FILE__; }\n'
    )
    monkeypatch.setattr(native, "csrc", lambda: tmp_path / "csrc")
    monkeypatch.setattr(native, "sources", lambda module: [path])
    return path


@pytest.mark.skipif(native.obstacle("_C_cpu") is not None, reason=f"{native.obstacle('_C_cpu')}")
@pytest.mark.usefixtures("source")
def test_a_library_names_its_sources_and_no_folder_of_this_machine(tmp_path: Path) -> None:
    native.build("_C_cpu", tmp_path / "out.so", tmp_path / "objects")
    made = (tmp_path / "out.so").read_bytes()
    assert b"\0csrc/cpu/where.cpp\0" in made and str(tmp_path).encode() not in made


@pytest.mark.skipif(native.obstacle("_C_cpu") is not None, reason=f"{native.obstacle('_C_cpu')}")
@pytest.mark.usefixtures("source")
def test_another_compiler_of_the_same_name_compiles_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, said, calls = tmp_path / "c++", tmp_path / "version", tmp_path / "calls"
    fake.write_text(
        f"""#!/bin/sh
[ "$1" = --version ] && exec cat '{said}'
case "$*" in *-shared*) ;; *) echo compiled >> '{calls}' ;; esac
exec {shlex.join(cxx() or [])} "$@"
"""
    )
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    for text, compiled in (("c++ 12.2", 1), ("c++ 12.2", 1), ("c++ 12.3", 2), ("c++ 12.3", 2)):
        said.write_text(text)
        native.build("_C_cpu", tmp_path / "out.so", tmp_path / "objects")
        assert len(calls.read_text().splitlines()) == compiled
        for made in (tmp_path / "objects").rglob("*.*"):  # as if time had passed: equal times are not fresh
            os.utime(made, (2**31, 2**31))


@pytest.mark.skipif(cxx() is None, reason="no C++ compiler")
def test_a_compiler_that_does_not_run_fails_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c++").write_text("#!/bin/sh\necho 'c++: not today' >&2\nexit 3\n")
    (tmp_path / "c++").chmod(0o755)
    monkeypatch.setenv("CXX", str(tmp_path / "c++"))
    with pytest.raises(BuildFailed, match=r"not today\n.* --version"):
        native.build("_C_cpu", tmp_path / "out.so", tmp_path / "objects")


@pytest.mark.skipif(cxx() is None, reason="no C++ compiler")
def test_a_source_that_does_not_compile_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "cpu/broken_avx2.cpp"
    source.parent.mkdir()
    source.write_text("int f( { }\n")
    monkeypatch.setattr(native, "csrc", lambda: tmp_path)
    monkeypatch.setattr(native, "sources", lambda module: [source])
    with pytest.raises(BuildFailed) as caught:
        native.build("_C_cpu", tmp_path / "out.so", tmp_path / "objects")
    assert "broken_avx2.cpp:1" in str(caught.value).splitlines()[0]
    assert "-mavx2" in str(caught.value).splitlines()[1]
    assert not (tmp_path / "out.so").exists()
