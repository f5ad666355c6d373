"""The result of a benchmark as JSON and as markdown, with the machine and versions that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from benchmarks.case import Case
from benchmarks.measure import Timing
from vtp_core import installation


def result(case: Case, timings: Mapping[str, Timing], clock: str, threads: int, date: str) -> dict[str, Any]:
    """Everything that a report says, ready for JSON.

    Args:
        case: What was timed.
        timings: Variant -> times.
        clock: Name of the clock.
        threads: Threads that each variant could use.
        date: Day of the measurement, ISO 8601.
    """
    reference = timings[case.reference].median
    return {
        "case": case.name,
        "question": case.question,
        "date": date,
        "rows": case.rows,
        "unit": case.unit,
        "clock": clock,
        "threads": threads,
        "reference": case.reference,
        "variants": {
            name: {
                **asdict(timing),
                "rows_per_s": case.rows / timing.median,
                "speedup": reference / timing.median,
            }
            for name, timing in timings.items()
        },
        "machine": installation.machine(),
        "torch": installation.torch_build(),
        "packages": {item["name"]: item["version"] for item in installation.packages(extra=None)},
        "vtp": installation.release()["version"],
    }


def markdown(found: Mapping[str, Any]) -> str:
    """A report for benchmarks/reports."""
    host, torch = found["machine"], found["torch"]
    lines = [
        f"# {found['case']}",
        "",
        found["question"],
        "",
        f"| variant | ms per call (quartiles) | {found['unit']}/s | against {found['reference']} |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in found["variants"].items():
        spread = f"{row['median'] * 1e3:.3f} ({row['low'] * 1e3:.3f} to {row['high'] * 1e3:.3f})"
        lines.append(f"| {name} | {spread} | {row['rows_per_s']:,.0f} | {row['speedup']:.2f} x |")
    first = found["variants"][found["reference"]]
    versions = ", ".join(f"{name} {found['packages'][name]}" for name in ("torch", "numpy", "pillow"))
    lines += [
        "",
        f"- {found['date']}, vtp-core {found['vtp']}; {found['rows']} {found['unit']} a call.",
        f"- {found['clock']}, {found['threads']} thread(s), median of {first['rounds']} rounds in turns.",
        f"- {host['processor']}, {host['usable_cores']} cores, {host['memory_gib']} GiB; {host['system']}.",
        f"- {versions}; CPU code path {torch['cpu_capability']}; devices: {'; '.join(torch['devices'])}.",
    ]
    return "\n".join(lines) + "\n"
