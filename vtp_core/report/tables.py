"""The tables of the report: data, machine, latent channels, the command. Imports no torch."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable
from typing import Any

from vtp_core.report.run_data import RunData, table
from vtp_core.report.sentence import Fact

MOST_CHANNELS = 64


def data(run: RunData) -> Iterable[Fact]:
    """Views, training data, held-out data and bad samples."""
    for name, entry in table(run.recipe.get("views")).items():
        if isinstance(entry, dict):
            value = f"{entry.get('rows', '?')} rows a step at {entry.get('size', '?')} px"
            yield Fact(name=f"view {name}", value=value, note=f"augment {entry.get('augment', '?')}")
    if source := table(table(run.recipe.get("data")).get("source")):
        settings = ", ".join(f"{key} = {value}" for key, value in source.items() if key != "use")
        yield Fact(name="training data", value=str(source.get("use", "?")), note=settings)
    if held_out := run.gallery.get("held_out"):
        yield Fact(name="images shown", value=str(held_out))
    bad = sum(run.bad_samples.values())
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(run.bad_samples.items()))
    yield Fact(name="bad samples", value=str(bad), note=reasons or "none was replaced")


def machine(run: RunData) -> Iterable[Fact]:
    """Everything of ``environment.json``."""
    for key, value in run.environment.items():
        if key in ("command", "loose_plugins", "failed_plugins") and not value:
            continue
        if isinstance(value, dict):
            text = ", ".join(f"{name} {_brief(item)}" for name, item in value.items() if item is not None)
        elif isinstance(value, list):
            text = " ".join(str(item) for item in value)
        else:
            text = "none" if value is None else str(value)
        yield Fact(name=key.replace("_", " "), value=text)


def command(run: RunData) -> str:
    """The command that repeats the run."""
    files = run.environment.get("loose_plugins")
    options = [f"--plugin {shlex.quote(str(file))}" for file in (files if isinstance(files, list) else ())]
    return " ".join(["vtp run resolved.toml", *options])


def latent(run: RunData) -> dict[str, Any] | None:
    """Statistics of the latent's channels, or None without any."""
    found = table(run.gallery.get("latent"))
    std, mean = found.get("std") or [], found.get("mean") or []
    if not std:
        return None
    widest = max(*std, *(abs(value) for value in mean), 1e-12)
    fractions = [fraction for fraction in found.get("explained", []) if fraction > 0]
    rank = math.exp(-sum(fraction * math.log(fraction) for fraction in fractions)) if fractions else 0.0
    return {
        "channels": [
            {"index": index, "mean": m, "std": s, "width": 100 * s / widest}
            for index, (m, s) in enumerate(zip(mean[:MOST_CHANNELS], std[:MOST_CHANNELS], strict=False))
        ],
        "spectrum": [
            {"index": index, "fraction": 100 * fraction, "width": 100 * fraction / max(fractions)}
            for index, fraction in enumerate(fractions[:MOST_CHANNELS], 1)
        ],
        "count": len(std),
        "effective_rank": rank,
        "explained": 100 * sum(found.get("explained", [])[:3]),
    }


def _brief(item: Any) -> str:
    return " ".join(str(part) for part in item.values() if part) if isinstance(item, dict) else str(item)
