from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from vtp_plugins.kernels.native import compiler
from vtp_plugins.kernels.native.compiler import BuildFailed, Compilation

pytestmark = pytest.mark.skipif(compiler.cxx() is None, reason="no C++ compiler")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sources in a folder whose name has a space, as home folders may."""
    path = tmp_path / "my sources"
    path.mkdir()
    (path / "answer.h").write_text("#define ANSWER 42\n")
    (path / "answer.cpp").write_text('#include "answer.h"\nextern "C" int answer() { return ANSWER; }\n')
    return path


def compilation(folder: Path, *flags: str) -> Compilation:
    return Compilation(
        (*(compiler.cxx() or []), "-fPIC", *flags, str(folder / "answer.cpp")),
        folder / "objects/answer.cpp.o",
    )


def age(folder: Path) -> None:
    """Everything was written a while ago, sources before objects."""
    for path in folder.rglob("*"):
        if path.is_file():
            seconds = 2_000 if path.suffix in (".o", ".d", ".command") else 1_000
            os.utime(path, (seconds, seconds))


def test_only_what_changed_is_compiled_again(folder: Path) -> None:
    one = compilation(folder)
    assert not one.is_fresh()
    one.run()
    age(folder)
    assert one.is_fresh()
    one.run()
    assert one.output.stat().st_mtime == 2_000, "nothing was done"
    os.utime(folder / "answer.h", (3_000, 3_000))
    assert not one.is_fresh(), "an included header counts"
    one.run()
    age(folder)
    other = compilation(folder, "-O1")
    assert not other.is_fresh(), "other flags make another object"
    other.run()
    age(folder)
    assert other.is_fresh() and not one.is_fresh()
    (folder / "answer.h").unlink()
    assert not other.is_fresh()


def test_a_compilation_links_to_a_library(folder: Path) -> None:
    one = compilation(folder)
    compiler.compile_all([one], jobs=2)
    library = folder / "lib/answer.so"
    compiler.link([*(compiler.cxx() or []), "-shared", str(one.output)], library)
    assert [path.name for path in library.parent.iterdir()] == ["answer.so"], "no temporary file is left"
    assert (
        " T answer"
        in subprocess.run(
            [shutil.which("nm") or "nm", "-D", str(library)], capture_output=True, text=True, check=True
        ).stdout
    )


def test_a_failure_names_the_first_error_and_keeps_the_old_object(folder: Path) -> None:
    one = compilation(folder)
    one.run()
    before = one.output.read_bytes()
    (folder / "answer.h").write_text("#error not today\n")
    os.utime(folder / "answer.h", (2**31, 2**31))
    with pytest.raises(BuildFailed) as caught:
        compiler.compile_all([one], jobs=1)
    first, command, *rest = str(caught.value).splitlines()
    assert "not today" in first and "answer.h" in first and "error" in first
    assert "-MMD" in command and rest
    assert one.output.read_bytes() == before
    assert sorted(path.suffix for path in one.output.parent.iterdir()) == [".command", ".d", ".o"]


def test_a_compiler_that_can_not_be_started_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="no-such-compiler: No such file"):
        compiler.execute([str(tmp_path / "no-such-compiler")])


def test_a_compiler_that_says_nothing_is_a_failure(tmp_path: Path) -> None:
    script = tmp_path / "c++"
    script.write_text("#!/bin/sh\nexit 3\n")
    script.chmod(0o755)
    with pytest.raises(BuildFailed, match=r"c\+\+ failed"):
        compiler.execute([str(script)])


def test_dependencies_of_a_makefile_rule() -> None:
    rule = "out/a.o: src/a.cpp \\\n src/my\\ header.h \\\n /usr/b.h\n"
    assert compiler.dependencies(rule) == ["src/a.cpp", "src/my header.h", "/usr/b.h"]


def test_the_compiler_is_that_of_cxx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "my c++"
    script.touch(mode=0o755)
    monkeypatch.setenv("CXX", f"'{script}' -pipe")
    assert compiler.cxx() == [str(script), "-pipe"]
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    assert compiler.cxx() is None, "a wrong CXX is not passed over"
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiler.cxx() is None
    (tmp_path / "g++").touch(mode=0o755)
    assert compiler.cxx() == ["g++"]


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("0", 1)])
def test_max_jobs(monkeypatch: pytest.MonkeyPatch, given: str, expected: int) -> None:
    monkeypatch.setenv("MAX_JOBS", given)
    assert compiler.jobs() == expected
    monkeypatch.setenv("MAX_JOBS", "many")
    assert compiler.jobs() >= 1
