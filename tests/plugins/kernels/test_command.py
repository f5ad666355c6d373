from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from vtp_core.cli.main import main
from vtp_plugins.kernels import command
from vtp_plugins.kernels.native.compiler import BuildFailed
from vtp_plugins.kernels.native.loading import why_missing

ISAS = ("portable", "avx2", "avx512", "avx512bf16")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is built into instead of the real one; every build succeeds at once."""
    monkeypatch.setattr(command, "PACKAGE", tmp_path)
    monkeypatch.setattr(command, "library", lambda module, folder=tmp_path: folder / f"{module}.so")
    monkeypatch.setattr(command, "obstacle", lambda module: None)
    monkeypatch.setattr(
        command, "compile_module", lambda module, output, objects, gpus: output.write_text(gpus)
    )
    monkeypatch.setattr(command, "PROBE", {"_C_cpu": "print('avx2')", "_C_cuda": "print('loaded')"})
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["kernels", *arguments])
    return done.exit_code, done.output


def recorded(package: Path) -> dict[str, str | None]:
    found: dict[str, str | None] = json.loads((package / "native_build.json").read_text())
    return found


def test_the_list_has_every_implementation_and_what_auto_takes() -> None:
    code, output = run("list", "--json")
    assert code == 0, output
    facts = json.loads(output)
    names = {(item["operator"], item["name"]) for item in facts["kernels"]}
    assert {("attention", "sdpa"), ("nearest_code", "reference")} <= names
    cases = {(item["operator"], item["device"], item["dtype"]): item["name"] for item in facts["auto"]}
    for dtype in ("float32", "bfloat16"):
        for operator in ("attention", "nearest_code"):
            assert (operator, cases[operator, "cpu", dtype]) in names
    assert (facts["cpu_isa"] in ISAS) == (why_missing("_C_cpu") is None)


def test_the_list_as_text_shows_the_reasons() -> None:
    code, output = run("list")
    assert code == 0, output
    facts = json.loads(run("list", "--json")[1])
    for item in facts["kernels"]:
        assert any(
            item["name"] in line and (item["missing"] or "ready") in line for line in output.splitlines()
        )
    assert f"instruction set of native kernels on this CPU: {facts['cpu_isa']}" in output


@pytest.mark.skipif(why_missing("_C_cpu") is not None, reason=f"_C_cpu {why_missing('_C_cpu')}")
def test_a_wrong_instruction_set_is_shown_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VTP_CPU_ISA", "sse")
    assert "VTP_CPU_ISA=sse: unknown" in json.loads(run("list", "--json")[1])["cpu_isa"]


def test_a_build_writes_library_and_record(package: Path) -> None:
    code, output = run("build")
    assert code == 0, output
    assert recorded(package) == {"_C_cpu": None, "_C_cuda": None}
    assert sorted(path.name for path in package.iterdir()) == ["_C_cpu.so", "_C_cuda.so", "native_build.json"]


def test_without_cuda_the_build_goes_on_and_says_why(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "obstacle", lambda module: "no nvcc" if module == "_C_cuda" else None)
    code, output = run("build")
    assert code == 0 and "_C_cuda  not built: no nvcc" in output
    assert recorded(package) == {"_C_cpu": None, "_C_cuda": "no nvcc"}
    code, output = run("build", "--cuda")
    assert code == 2 and "_C_cuda is not built: no nvcc" in output


@pytest.mark.parametrize(("only", "module"), [("cpu", "_C_cpu"), ("cuda", "_C_cuda")])
def test_one_module_is_built_alone(only: str, module: str, package: Path) -> None:
    code, output = run("build", "--only", only)
    assert code == 0, output
    assert recorded(package) == {module: None}
    assert ("vtp kernels tune" in output) == (only == "cuda")


def test_cuda_alone_must_succeed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "obstacle", lambda module: "no nvcc")
    code, output = run("build", "--only", "cuda")
    assert code == 2 and "_C_cuda is not built: no nvcc" in output


def test_an_obstacle_takes_nothing_away(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("build")[0] == 0
    monkeypatch.setattr(command, "obstacle", lambda module: "no C++ compiler on PATH")
    code, output = run("build")
    assert code == 2 and len(output.splitlines()) == 1
    assert "_C_cpu is not built again: no C++ compiler on PATH; the earlier library stays" in output
    assert recorded(package) == {"_C_cpu": None, "_C_cuda": None} and (package / "_C_cpu.so").is_file()


def test_a_compiler_error_is_one_line_unless_asked(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise BuildFailed("a.cpp:1: error: no\nc++ -c a.cpp\nand much more")

    monkeypatch.setattr(command, "compile_module", refuse)
    code, output = run("build")
    assert code == 2 and "a.cpp:1: error: no" in output and "much more" not in output
    assert recorded(package)["_C_cpu"] == "a.cpp:1: error: no"
    assert "much more" in run("build", "--verbose")[1]
    assert not list(package.glob(".build-*"))


def test_a_library_that_does_not_load_is_no_success(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "PROBE", {"_C_cpu": "raise ImportError('undefined symbol')"})
    code, output = run("build")
    assert code == 2 and "a new process can't load it: ImportError: undefined symbol" in output


def test_a_folder_that_is_not_writable(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    code, output = run("build")
    assert code == 2 and f"{package} is not writable" in output


def test_objects_are_kept_in_the_sources_or_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert command.object_folder() == Path(__file__).parents[3] / "build/native"
    monkeypatch.setattr(command, "csrc", lambda: command.PACKAGE / "csrc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert command.object_folder() == tmp_path / "vtp/native"
