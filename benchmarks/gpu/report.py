"""The report of a run as markdown. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.outcome import Outcome

Row = Sequence[str]


def table(header: Row, rows: Sequence[Row]) -> list[str]:
    """Lines of a markdown table and an empty one."""
    cells = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in cells] + [""]


def file_name(facts: Mapping[str, Any], date: str) -> str:
    """``gpu_<name of the device>_<date>.md``."""
    name = re.sub(r"[^a-z0-9]+", "_", str(facts.get("name", "unknown")).lower()).strip("_")
    return f"gpu_{name}_{date}.md"


def markdown(
    facts: Mapping[str, Any], outcomes: Sequence[Outcome], date: str, notes: Sequence[str] = ()
) -> str:
    """The whole report.

    Args:
        facts: Of `benchmarks.gpu.facts`; empty if it failed.
        outcomes: Of the parts that were chosen.
        date: ISO 8601.
        notes: Further lines for its head.
    """
    lines = [f"# make gpu on {facts.get('name', 'an unknown device')}, {date}", ""]
    lines += [*_machine(facts), *(f"- {note}" for note in notes), ""]
    rows = []
    for it in outcomes:
        verdict = "done" if it.failure is None else f"**failed**: {it.failure}"
        rows.append((it.name, verdict, f"{it.seconds:.0f}", it.summary))
    lines += table(("part", "outcome", "s", "what it does"), rows)
    for it in outcomes:
        if it.lines:
            lines += [f"## {it.name}", "", *it.lines]
            lines += [] if lines[-1] == "" else [""]
    return "\n".join(lines).rstrip() + "\n"


def write(
    folder: Path, facts: Mapping[str, Any], outcomes: Sequence[Outcome], date: str, notes: Sequence[str] = ()
) -> Path:
    """Writes the report into a folder; returns its file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(facts, date)
    path.write_text(markdown(facts, outcomes, date, notes), encoding="utf-8")
    return path


def _machine(facts: Mapping[str, Any]) -> list[str]:
    if not facts:
        return ["- Nothing could be found out about the device."]
    measured, sheet = facts["measured"], facts["sheet"]
    lines = [
        f"- {facts['name']}, compute capability {facts['capability']}, {facts['memory_gib']:.0f} GiB, driver "
        f"{facts['driver']}; torch {facts['torch']}, triton {facts['triton']}, CUDA {facts['cuda']}, "
        f"Python {facts['python']}.",
        f"- Measured here: products of {facts['side']} x {facts['side']} matrices at "
        f"{_tera(measured['bfloat16'])} FLOP/s in bfloat16, {_tera(measured['float32'])} in float32; a copy "
        f"moves {measured['bytes'] / 1e12:.2f} TB/s, read and written.",
    ]
    if facts["missing"]:
        lines.append(f"- Packages that are missing or too old here: {', '.join(facts['missing'])}.")
    if not sheet:
        return [*lines, "- No data sheet of this device is known: ratios below are to the measured rates."]
    lines.append(
        f"- Data sheet: {_tera(sheet['tensor'])} FLOP/s in bfloat16, {sheet['bytes'] / 1e12:.2f} TB/s. "
        "Limits below are computed from it (`vtp_plugins/bench/gpu_limits.py`)."
    )
    return lines


def _tera(rate: float) -> str:
    return f"{rate / 1e12:.3g} T"
