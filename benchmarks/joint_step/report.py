"""The ladder as a markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.joint_step.ladder import RUNGS, WITHOUT_SWITCH
from benchmarks.joint_step.measurement import PRECISIONS, key
from vtp_plugins.bench.report import circumstances_of


def markdown(found: Mapping[str, Any]) -> str:
    """A report of what `run_ladder` and `count_memory` found; all ratios are to three plain steps."""
    plain = found["names"][0]
    rows = found["variants"]
    memory = "peak_bytes" in rows[found["reference"]]
    peak = rows[found["reference"]].get("peak_fraction") is not None
    header = [
        "step",
        "precision",
        "s (quartiles)",
        "time / plain float32",
        "time / plain, same precision",
    ]
    header += [f"% of {found['peak']} peak"] if peak else []
    header += ["peak MiB", "peak / plain float32", "peak / plain, same precision"] if memory else []
    lines = ["# joint_step", "", found["question"], "", f"## {found['shape']}", ""]
    lines += ["| " + " | ".join(header) + " |", "| " + " | ".join(["---"] * len(header)) + " |"]
    for kind in PRECISIONS:
        for name in found["names"]:
            row = rows[key(name, kind)]
            others = rows[key(plain, "float32")], rows[key(plain, kind)]
            cells = [name, kind, f"{row['median']:.3f} ({row['low']:.3f} to {row['high']:.3f})"]
            cells += [f"{row['median'] / other['median']:.3f}" for other in others]
            cells += [f"{row['peak_fraction'] * 100:.1f} %"] if peak else []
            if memory:
                cells += _memory_cells(row, others)
            lines.append("| " + " | ".join(cells) + " |")
    left = [name for name in RUNGS if name not in found["names"]]
    lines += ["", f"- {WITHOUT_SWITCH}"]
    lines += [f"- Left out of this run: {', '.join(left)}."] if left else []
    if peak:
        lines.append("- Operations are those of the plain step, whatever a rung computes again.")
    if memory:
        lines.append("- Peak: counted allocations of a warm step beyond weights, moments and EMA copies.")
    low, high = found["load"]
    lines.append(f"- The machine was shared: load {low:.0f} to {high:.0f} on {found['cores']} cores.")
    return "\n".join([*lines, *circumstances_of(found)]) + "\n"


def _memory_cells(row: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """MiB and ratios; empty where a rung's memory was not counted."""
    if "peak_bytes" not in row:
        return [""] * (1 + len(others))
    ratios = [row["peak_bytes"] / other["peak_bytes"] for other in others]
    return [f"{row['peak_bytes'] / 2**20:.0f}", *(f"{ratio:.3f}" for ratio in ratios)]
