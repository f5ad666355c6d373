"""What the compiled CPU module asks of a system: torch's stable ABI alone, and any x86-64.

The objects are those of build/native, brought up to date: seconds if the installation built them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vtp_plugins.kernels.native import build
from vtp_plugins.kernels.native.loading import why_missing
from vtp_plugins.kernels.native.sources import isa_flags, sources

REPOSITORY = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(build.obstacle("_C_cpu") is not None, reason=f"{build.obstacle('_C_cpu')}"),
    pytest.mark.skipif(not (shutil.which("nm") and shutil.which("objdump")), reason="no binutils"),
]

# Of the C and C++ run-time libraries, and what every shared library has.
SYSTEM = re.compile(
    r".*@(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+|_ITM_\w+|__cxa_\w+|__gmon_start__|_Z[A-Z]*St\w+|_Zn[wa]m|_Zd[la]Pvm?|__dso_handle"
)
SHIM = re.compile(r"(aoti_torch|torch)_\w+")
PYTHON = re.compile(r"_?Py\w+")
VECTOR_REGISTER = re.compile(r"%[yz]mm\d+")


def lines_of(*command: str | Path) -> list[str]:
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=True
    ).stdout.splitlines()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = build.library("_C_cpu", tmp_path_factory.mktemp("native"))
    build.build("_C_cpu", path, REPOSITORY / "build/native")
    return path


@pytest.fixture(scope="module")
def objects(library: Path) -> dict[Path, Path]:
    """Source -> its object, of the sources that there are now."""
    torch = build.torch_folder()
    assert library.is_file() and torch is not None
    folder = REPOSITORY / "build/native" / f"torch-{build.torch_version(torch)}"
    found = {source: folder / f"cpu.{source.name}.o" for source in sources("_C_cpu")}
    assert all(path.is_file() for path in found.values())
    return found


def test_the_installation_has_the_module() -> None:
    """All tests of native kernels are left out without it, so one has to miss it."""
    if build.recorded().get("_C_cpu") == "VTP_BUILD_EXT=0":
        pytest.skip("VTP_BUILD_EXT=0")
    assert why_missing("_C_cpu") is None, f"_C_cpu {why_missing('_C_cpu')}; try make native"


def test_the_library_needs_torchs_stable_shims_alone(library: Path) -> None:
    names = [line.split()[-1] for line in lines_of("nm", "-D", "--undefined-only", library)]
    shims = [name for name in names if SHIM.fullmatch(name)]
    rest = [name for name in names if not (SHIM.fullmatch(name) or PYTHON.fullmatch(name))]
    assert shims and not [name for name in rest if not SYSTEM.fullmatch(name)]


def test_the_library_needs_only_pythons_limited_api(library: Path) -> None:
    names = [line.split()[-1] for line in lines_of("nm", "-D", "--undefined-only", library)]
    assert [name for name in names if PYTHON.fullmatch(name)] == ["PyModule_Create2"]


def test_the_library_shows_its_init_function_alone(library: Path) -> None:
    rows = [line.split() for line in lines_of("nm", "-D", "--defined-only", library)]
    assert [row[-1] for row in rows if row[1] == "T"] == ["PyInit__C_cpu"]


def test_the_library_names_no_folder_of_this_machine(library: Path) -> None:
    made, torch = library.read_bytes(), build.torch_folder()
    assert b"\0csrc/cpu/search_op.cpp\0" in made
    assert not [folder for folder in (REPOSITORY, torch) if str(folder).encode() in made]


def test_files_for_every_cpu_use_no_wide_register(objects: dict[Path, Path]) -> None:
    plain = {source: path for source, path in objects.items() if not isa_flags(source)}
    assert plain
    for source, path in plain.items():
        wide = [line for line in lines_of("objdump", "-d", path) if VECTOR_REGISTER.search(line)]
        assert not wide, f"{source.name}: {wide[0]}"


def test_files_of_an_instruction_set_share_no_inline_code(objects: dict[Path, Path]) -> None:
    """A weak function that is compiled for AVX-512 may be the copy that the linker keeps for everyone."""
    for source, path in objects.items():
        rows = (
            [line.split() for line in lines_of("nm", "-C", "--defined-only", path)]
            if isa_flags(source)
            else []
        )
        shared = [" ".join(row[2:]) for row in rows if row[1] == "W"]
        assert not shared, f"{source.name}: {shared[0]} belongs in an anonymous namespace"
