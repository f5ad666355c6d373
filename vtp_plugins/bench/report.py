"""The result of a benchmark as JSON and as markdown, with the machine and versions that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vtp_core import installation
from vtp_plugins.bench.case import BenchCase
from vtp_plugins.kernels.timing import Timing

SHOWN = ("torch", "triton", "numpy", "pillow")


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """Conditions under which a case was measured.

    Attributes:
        date: Day of the measurement, ISO 8601.
        clock: Name of the clock.
        threads: Threads that each variant could use.
        peaks: Precision -> measured operations per second of these threads; empty: not measured.
        kernels: What serves our operators here, one line.
    """

    date: str
    clock: str
    threads: int
    peaks: Mapping[str, float]
    kernels: str = ""


def result(
    case: BenchCase,
    timings: Mapping[str, Timing],
    circumstances: Circumstances,
    memory: Mapping[str, int] | None = None,
    parts: Mapping[str, Timing] | None = None,
) -> dict[str, Any]:
    """Everything that a report says, ready for JSON.

    Args:
        case: What was timed.
        timings: Variant -> times.
        circumstances: How.
        memory: Variant -> most bytes that a call held beyond what was held before; None: not counted.
        parts: Part of the reference -> its times in place.
    """
    reference = timings[case.reference].median
    peak = circumstances.peaks.get(case.peak)
    variants: dict[str, dict[str, Any]] = {}
    for name, timing in timings.items():
        row = {
            **asdict(timing),
            "rows_per_s": case.rows / timing.median,
            "speedup": reference / timing.median,
        }
        if case.flop is not None:
            row["flop_per_s"] = case.flop / timing.median
            row["peak_fraction"] = row["flop_per_s"] / peak if peak else None
        if case.limit is not None:
            row["limit_fraction"] = case.limit / timing.median
        if memory is not None and name in memory:
            row["peak_bytes"] = memory[name]
        variants[name] = row
    return {
        "case": case.name,
        "shape": case.shape,
        "question": case.question,
        "rows": case.rows,
        "unit": case.unit,
        "peak": case.peak,
        "reference": case.reference,
        "variants": variants,
        "parts": {
            name: {**asdict(part), "share": part.median / reference} for name, part in (parts or {}).items()
        },
        "skipped": dict(case.skipped),
        **asdict(circumstances),
        "machine": installation.machine(),
        "torch": installation.torch_build(),
        "packages": {item["name"]: item["version"] for item in installation.packages()},
        "vtp": installation.release()["version"],
    }


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """A report of one case on one or more shapes.

    Args:
        results: Of `result`; all of the same case, measured under the same circumstances.
    """
    first = results[0]
    lines = [f"# {first['case']}", "", first["question"], ""]
    for found in results:
        lines += table(found)
    lines += circumstances_of(first)
    return "\n".join(lines) + "\n"


def table(found: Mapping[str, Any]) -> list[str]:
    """The rows of one shape as a markdown table."""
    rows = list(found["variants"].values())
    peak = any(row.get("peak_fraction") for row in rows)
    limit = any("limit_fraction" in row for row in rows)
    memory = any("peak_bytes" in row for row in rows)
    header = ["variant", "ms per call (quartiles)", "wall ms", f"{found['unit']}/s"]
    header += [f"% of {found['peak']} peak"] if peak else []
    header += ["% of limit"] if limit else []
    header += ["peak MiB"] if memory else []
    header += [f"speed against {found['reference']}"]
    lines = [f"## {found['shape']}", ""] if found["shape"] else []
    lines += ["| " + " | ".join(header) + " |", "| " + " | ".join(["---"] * len(header)) + " |"]
    for name, row in found["variants"].items():
        spread = f"{row['median'] * 1e3:.3f} ({row['low'] * 1e3:.3f} to {row['high'] * 1e3:.3f})"
        cells = [name, spread, f"{row['wall'] * 1e3:.3f}", f"{row['rows_per_s']:,.0f}"]
        cells += [_percent(row.get("peak_fraction"))] if peak else []
        cells += [_percent(row.get("limit_fraction"))] if limit else []
        cells += [f"{row['peak_bytes'] / 2**20:.1f}" if "peak_bytes" in row else ""] if memory else []
        cells += [f"{row['speedup']:.2f} x"]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    if found.get("parts"):
        lines += [
            f"- {name}, timed in place: {part['median'] * 1e3:.3f} ms ({part['low'] * 1e3:.3f} to "
            f"{part['high'] * 1e3:.3f}), {part['share'] * 100:.1f} % of {found['reference']}."
            for name, part in found["parts"].items()
        ]
        lines.append("")
    if found["skipped"]:
        lines += [*(f"- {name}: not measured, {reason}" for name, reason in found["skipped"].items()), ""]
    return lines


def circumstances_of(found: Mapping[str, Any]) -> list[str]:
    """Machine, clock and versions as a markdown list."""
    host, torch = found["machine"], found["torch"]
    timing = next(iter(found["variants"].values()))
    versions = ", ".join(f"{name} {found['packages'][name]}" for name in SHOWN if name in found["packages"])
    lines = [
        f"- {found['date']}, vtp-core {found['vtp']}; {found['rows']:,} {found['unit']} a call"
        + (" (first shape)." if found["shape"] else "."),
        f"- {found['clock']}, {found['threads']} thread(s), median of {timing['rounds']} rounds in turns.",
    ]
    if found["peaks"]:
        peaks = ", ".join(f"{name} {value / 1e9:.0f} GFLOP/s" for name, value in found["peaks"].items())
        how = "products of large matrices" if "CUDA" in found["clock"] else "a loop of multiply-adds"
        lines.append(f"- Peak by {how} at the start, these threads together: {peaks}.")
    if found["kernels"]:
        lines.append(f"- Our operators: {found['kernels']}.")
    return [
        *lines,
        f"- {host['processor']}, {host['usable_cores']} cores, {host['memory_gib']} GiB; {host['system']}.",
        f"- {versions}; CPU code path {torch['cpu_capability']}; devices: {'; '.join(torch['devices'])}.",
    ]


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{fraction * 100:.0f} %"
