"""The CPU kernels under the sanitizers: a driver of csrc/sanitize with the files that need no torch.

Objects are kept in build/sanitize, so that a second run compiles what changed.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from vtp_plugins.kernels.native.compiler import (
    BuildFailed,
    Compilation,
    compile_all,
    cxx,
    execute,
    jobs,
    link,
)
from vtp_plugins.kernels.native.sources import csrc, isa_flags, sources

REPOSITORY = Path(__file__).parents[3]
DRIVERS = sorted((REPOSITORY / "csrc/sanitize").glob("*.cpp"))
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
ISAS = ("portable", "avx2", "avx512", "avx512bf16")
# Without optimisation the instrumented templates compile ten times faster.
FLAGS = (
    "-std=c++20",
    "-O0",
    "-g1",
    "-ffp-contract=off",
    "-fno-omit-frame-pointer",
    "-Wall",
    "-DVTP_SANITIZE",
)
# Small cases, and of the search large ones, which fill the lists of rows that wait for another screen.
CASES = {"search": (1000, 16), "attention": (100,)}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(cxx() is None, reason="no C++ compiler"),
]


def needs_torch(source: Path) -> bool:
    return re.search(r"#include <(torch/|Python\.h)", source.read_text()) is not None


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name of a driver -> its program."""
    compiler = [*(cxx() or []), *FLAGS, *SANITIZERS]
    probe = tmp_path_factory.mktemp("probe")
    (probe / "main.cpp").write_text("int main() { return 0; }\n")
    try:
        execute([*compiler, str(probe / "main.cpp"), "-o", str(probe / "main")])
        execute([str(probe / "main")])
    except BuildFailed as error:
        pytest.skip(f"this machine has no sanitizers: {str(error).splitlines()[0]}")
    folder = REPOSITORY / "build/sanitize"
    kernels = [path for path in sources("_C_cpu") if not needs_torch(path)]
    steps = {
        path: Compilation(
            (*compiler, *isa_flags(path), "-I", str(csrc() / "cpu"), str(path)),
            folder / f"{path.parent.name}.{path.name}.o",
        )
        for path in (*kernels, *DRIVERS)
    }
    compile_all(list(steps.values()), jobs())
    objects = [str(steps[path].output) for path in kernels]
    for path in DRIVERS:
        link([*compiler, str(steps[path].output), *objects, "-pthread"], folder / path.stem)
    return {path.stem: folder / path.stem for path in DRIVERS}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", [path.stem for path in DRIVERS])
def test_nothing_is_found(drivers: dict[str, Path], name: str, isa: str) -> None:
    done = subprocess.run(
        [str(drivers[name]), *map(str, CASES[name])],
        capture_output=True,
        text=True,
        env={**os.environ, "VTP_CPU_ISA": isa},
        timeout=600,
        check=False,
    )
    if "this CPU can't run it" in done.stderr:
        pytest.skip(f"this CPU has no {isa}")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.startswith(f"{isa}: {sum(CASES[name])} cases, 0 ")


def test_there_is_a_driver_for_each_kernel() -> None:
    operators = {path.stem.removesuffix("_op") for path in sources("_C_cpu") if path.stem.endswith("_op")}
    assert operators - {"peak"} <= {path.stem for path in DRIVERS}
