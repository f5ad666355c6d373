"""What nvcc makes of the CUDA kernels: registers, spills, shared memory and instructions, against a table.

``python -m tests.plugins.kernels.cuda.resources`` writes the table anew: read the difference before it is
committed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vtp_plugins.kernels.native.sources import csrc
from vtp_plugins.kernels.native.toolkit import Toolkit, find

TABLE = Path(__file__).parent / "resources.json"
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")

Row = Mapping[str, int]

_SOURCE = """
#include "attention_launch.cuh"
#include "search_launch.cuh"
using namespace vtp::cuda;
void* kept[] = {(void*)launch_search, (void*)launch_attention, (void*)launch_rows};
"""

_KERNEL = re.compile(
    r"Compiling entry function '(?P<symbol>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def compiled(architecture: str, toolkit: Toolkit) -> dict[str, Row]:
    """Kernel -> what it takes on an architecture.

    ``stack`` and ``spills`` are bytes a thread, ``shared`` the static part (kernels ask for theirs when
    launched; the source asserts that it fits), ``tensor`` and ``fused64`` count instructions of tensor cores
    and fused multiply-adds in float64, if there is a disassembler.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "kernels.cu", Path(folder) / "kernels.cubin"
        source.write_text(_SOURCE)
        flags = [
            "-std=c++17",
            "-O3",
            f"-arch={architecture}",
            "-Xptxas",
            "-v",
            "-cubin",
            f"-I{csrc() / 'cuda'}",
        ]
        text = _output(str(toolkit.nvcc), *flags, str(source), "-o", str(cubin))
        code = _instructions(cubin)
    rows = {}
    for found in _KERNEL.finditer(text):
        shared = re.search(r"(\d+) bytes smem", found["rest"])
        row = {
            "registers": int(found["registers"]),
            "stack": int(found["stack"]),
            "spills": int(found["stores"]) + int(found["loads"]),
            "shared": int(shared[1]) if shared else 0,
        }
        if code is not None:
            listing = code[found["symbol"]]
            row["tensor"] = len(re.findall(r"\bHMMA\b", listing))
            row["fused64"] = len(re.findall(r"\bDFMA\b", listing))
        rows[_name(found["symbol"])] = row
    return dict(sorted(rows.items()))


def _name(symbol: str) -> str:
    """``vtp::cuda::kernel<arguments>(...)`` without namespaces and parameters."""
    full = _output("c++filt", symbol).strip().removeprefix("void ").replace("vtp::cuda::", "")
    return full[: full.index("(")]


def _instructions(cubin: Path) -> dict[str, str] | None:
    """Symbol -> machine code, by the disassembler in triton's wheel."""
    try:
        import triton.backends.nvidia as nvidia
    except ImportError:
        return None
    tool = Path(nvidia.__file__).parent / "bin/nvdisasm"
    parts = re.split(r"^\.text\.(\w+):$", _output(str(tool), "-c", str(cubin)), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]} failed: {done.stderr[-2000:]}"
    return done.stdout + done.stderr


def main() -> None:
    """Writes the table."""
    toolkit = find()
    if isinstance(toolkit, str):
        sys.exit(toolkit)
    table = {architecture: compiled(architecture, toolkit) for architecture in ARCHITECTURES}
    lines = []
    for architecture, rows in table.items():
        kernels = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
        lines.append(f"  {json.dumps(architecture)}: {{\n{kernels}\n  }}")
    TABLE.write_text(
        f'{{\n  "nvcc": {json.dumps(toolkit.version)},\n' + ",\n".join(lines) + "\n}\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
