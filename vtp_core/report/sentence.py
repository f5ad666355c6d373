"""The first sentence of the report, and the state of the run. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from statistics import median
from typing import Any

from vtp_core.report.chart import number
from vtp_core.report.run_data import RunData, is_number, table

NARROW = "\u202f"
"""A narrow space at which lines don't break."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A name, its value, and a note."""

    name: str
    value: str
    note: str = ""


def sentence(run: RunData) -> str:
    """What was trained, on what, and for how long; parts that are unknown are left out."""
    parts = [part for part in (_images(run), _latent(run), _size(run), _training(run)) if part]
    return " ".join(["A visual tokenizer", *parts]) + "."


def facts(run: RunData) -> list[Fact]:
    """Status, steps, speed and parameters."""
    planned = table(run.recipe.get("run")).get("steps")
    done = _last(run.metrics, "step")
    finished = is_finished(run)
    status = "complete" if finished else ("stopped" if done is not None else "not started")
    note = "" if finished else "resume with vtp run --resume"
    result = [
        Fact(name="status", value=status, note=note),
        Fact(name="steps", value=whole(planned if finished else done), note=f"of {whole(planned)} planned"),
    ]
    if run.best is not None:
        step, metric, value = run.best
        result.append(Fact(name="best", value=f"step {whole(step)}", note=f"{metric} {number(value)}"))
    speeds = [row["rows_per_s"] for row in run.metrics if is_number(row.get("rows_per_s"))]
    if speeds:
        result.append(Fact(name="median speed", value=f"{number(median(speeds))} rows/s"))
    counts = table(run.gallery.get("parameters"))
    result += [Fact(name=name, value=_millions(count)) for name, count in counts.items() if count]
    return result


def is_finished(run: RunData) -> bool:
    """Whether the artefact is that of the last planned step."""
    # The last logged line may be some steps before the end, if the run logs every few steps.
    return bool(run.artefact) and run.artefact.get("step") == table(run.recipe.get("run")).get("steps")


def source_name(source: Any) -> str:
    """A source's table in a word or two: component, split, the last part of its path."""
    entry = table(source)
    split = f"/{entry['split']}" if isinstance(entry.get("split"), str) else ""
    where = next((entry[key] for key in ("path", "urls") if entry.get(key)), "")
    first = where[0] if isinstance(where, list) else where
    last = PurePosixPath(str(first)).name if first else ""
    return f"{entry.get('use', '?')}{split}{f' {last}' if last else ''}"


def whole(value: object) -> str:
    """A whole number with spaces between thousands."""
    return f"{int(value):,}".replace(",", NARROW) if is_number(value) else "unknown"


def _sides(run: RunData) -> list[float]:
    size = run.artefact.get("image_size")
    sides = [s for s in (size if isinstance(size, list) else [size, size]) if is_number(s) and s > 0]
    return sides if len(sides) == 2 else []


def _images(run: RunData) -> str:
    sides = _sides(run)
    return f"for images of {_times(sides)}{NARROW}px" if sides else ""


def _latent(run: RunData) -> str:
    latent = table(run.gallery.get("latent"))
    shape, codes = latent.get("shape") or [], latent.get("codes") or []
    if len(shape) != 3:
        return ""
    size, sides = run.gallery.get("bytes", 0), _sides(run)
    fewer = f"{number(3 * math.prod(sides) / size)} times fewer bytes" if sides and size else "discrete"
    if codes:
        return f"with {_times(shape[1:])} codes of {' + '.join(whole(code) for code in codes)} ({fewer})"
    fewer = (
        f" ({number(3 * math.prod(sides) / max(math.prod(shape), 1))} times fewer numbers)" if sides else ""
    )
    return f"with latents of {_times(shape)}{fewer}"


def _size(run: RunData) -> str:
    counts = table(run.gallery.get("parameters"))
    own = sum(count for name, count in counts.items() if name in ("encoder", "bottleneck", "decoder"))
    return f"and {_millions(own)} parameters," if own else ""


def _training(run: RunData) -> str:
    source = table(run.recipe.get("data")).get("source")
    samples, seconds = _last(run.metrics, "samples"), _seconds(run.metrics)
    if samples is None:
        return f"to be trained on {source_name(source)}" if source else ""
    text = f"trained on {whole(samples)} samples{f' of {source_name(source)}' if source else ''}"
    if seconds > 0:
        device = _device(run)
        text += f" in {_duration(seconds)}{f' on {device}' if device else ''}"
    return text


def _times(sizes: Iterable[float]) -> str:
    return f"{NARROW}×{NARROW}".join(whole(size) for size in sizes)


def _device(run: RunData) -> str:
    device = str(run.environment.get("device") or "")
    return "the CPU" if device == "cpu" else device


def _millions(count: int) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{NARROW}{name}"
    return str(count)


def _last(rows: list[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if is_number(row.get(key))]
    return values[-1] if values else None


def _seconds(rows: list[dict[str, Any]]) -> float:
    """Training time: the logged samples divided by their logged rates."""
    seconds = before = 0.0
    for row in rows:
        if is_number(row.get("samples")) and is_number(row.get("rows_per_s")) and row["rows_per_s"] > 0:
            seconds += max(row["samples"] - before, 0) / row["rows_per_s"]
            before = row["samples"]
    return seconds if is_number(seconds) else 0.0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
