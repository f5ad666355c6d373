"""The page ``report.html``: one file, offline, readable without JavaScript. Imports no torch."""

from __future__ import annotations

import base64
import io
import math
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

import vtp_core
from vtp_core.data.decoding import decode_image, read_file
from vtp_core.data.source import BadSample
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_core.report.chart import Axis, Chart, line_chart, number
from vtp_core.report.run_data import RunData, is_number, table
from vtp_core.report.verdict import Fact, alarms, facts, scores

IMAGE_BUDGET = 3_500_000
"""Largest size of all embedded images in bytes; keeps the page under 5 MB."""
IMAGE_SIDE = 256
"""Largest side of an embedded image in pixels."""
IMAGE_LIMITS = DecodeLimits(min_side=1)
"""Limits on the files that are embedded: a picture of a latent may have one pixel."""

GROUPS = {
    "spread": "Spread evenly over the set",
    "worst": "The worst of the set",
    "median": "Around the median",
}


def render(run: RunData) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vtp_core.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _shown
    environment.filters["decibel"] = lambda value: f"{float(value):.2f} dB"
    groups, omitted, unreadable = _images(run)
    return environment.get_template("report.html.j2").render(
        name=run.name,
        version=vtp_core.__version__,
        facts=facts(run),
        alarms=[*alarms(run), *([f"samples: {unreadable} images can't be read"] if unreadable else [])],
        scores=scores(run),
        groups=groups,
        omitted=omitted,
        gallery=run.gallery,
        charts=list(charts(run)),
        latent=_latent(run),
        data=list(_data(run)),
        machine=list(_machine(run)),
        recipe_text=run.recipe_text,
        command=_command(run),
    )


def charts(run: RunData) -> Iterable[Chart]:
    """Loss terms by objective, then weighted losses, gradient norms, learning rate, throughput, reports."""
    rows = run.metrics
    by_objective: dict[str, list[str]] = {}
    for key in _keys(rows):
        if key.startswith("loss/") and key.count("/") >= 2:
            by_objective.setdefault(key.split("/")[1], []).append(key)
    wanted = [
        (f"Loss of {name}", {key.split("/", 2)[2]: key for key in keys}, "")
        for name, keys in by_objective.items()
    ]
    for title, prefix in (("Weighted losses", "weighted/"), ("Gradient norm by owner", "grad_norm/")):
        wanted.append((title, {k.removeprefix(prefix): k for k in _keys(rows) if k.startswith(prefix)}, ""))
    places: dict[str, dict[str, str]] = {}
    for key in _keys(rows):
        if key.startswith("grad_norm_at/"):
            place, _, objective = key.removeprefix("grad_norm_at/").rpartition("/")
            places.setdefault(place, {})[objective] = key
    wanted += [(f"Gradient at {place}, by objective", p, "") for place, p in places.items() if len(p) > 1]
    rates = {k.removeprefix("lr/"): k for k in _keys(rows) if k == "lr" or k.startswith("lr/")}
    wanted.append(("Learning rate", rates, ""))
    wanted.append(("Throughput", {"rows": "rows_per_s"}, "rows/s"))
    reports: dict[str, dict[str, str]] = {}
    for key in _keys(rows):
        if key.startswith("report/"):
            owner, _, what = key.removeprefix("report/").partition("/")
            reports.setdefault(owner, {})[what or owner] = key
    for owner, terms in reports.items():
        wanted += [(f"Reported by {owner}: {what}", {what: key}, "") for what, key in terms.items()]
    for title, keys, unit in wanted:
        series = {name: _points(rows, key) for name, key in keys.items()}
        axis: Axis = "zero" if title in ("Learning rate", "Throughput") else "auto"
        if chart := line_chart(title, series, unit, axis):
            yield chart


def _points(rows: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    return [
        (float(row["step"]), float(row[key]))
        for row in rows
        if is_number(row.get(key)) and is_number(row.get("step"))
    ]


def _keys(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _images(run: RunData) -> tuple[list[dict[str, Any]], int, int]:
    """Groups of rows with images as ``data:`` URLs; rows left out for size; images that can't be read."""
    spent = omitted = unreadable = 0
    groups: dict[str, list[dict[str, Any]]] = {}
    for item in run.gallery.get("images", []):
        row = {key: item.get(key, "") for key in ("key", "caption", "psnr")}
        for kind in ("input", "output", "error", "latent"):
            # Only the last part of the stored name, so that it can't point outside of the folder.
            row[kind] = _embedded(run.images / Path(str(item.get(kind, ""))).name)
            spent += len(row[kind])
            unreadable += not row[kind]
        if spent > IMAGE_BUDGET:
            omitted += 1
            continue
        groups.setdefault(str(item.get("group", "")), []).append(row)
    shown = [{"title": GROUPS.get(name, name), "rows": rows} for name, rows in groups.items()]
    return shown, omitted, unreadable


def _embedded(path: Path) -> str:
    try:
        stored = read_file(path, path.name, IMAGE_LIMITS.max_bytes)
        image = Image.fromarray(decode_image(stored, path.name, IMAGE_LIMITS))
    except BadSample:
        return ""
    image.thumbnail((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def _latent(run: RunData) -> dict[str, Any] | None:
    latent = run.gallery.get("latent") or {}
    std, mean = latent.get("std") or [], latent.get("mean") or []
    if not std:
        return None
    widest = max(*std, *(abs(value) for value in mean), 1e-12)
    fractions = [fraction for fraction in latent.get("explained", []) if fraction > 0]
    rank = math.exp(-sum(fraction * math.log(fraction) for fraction in fractions)) if fractions else 0.0
    return {
        "channels": [
            {"index": index, "mean": m, "std": s, "width": 100 * s / widest}
            for index, (m, s) in enumerate(zip(mean[:64], std[:64], strict=False))
        ],
        "count": len(std),
        "effective_rank": rank,
        "explained": 100 * sum(latent.get("explained", [])[:3]),
    }


def _data(run: RunData) -> Iterable[Fact]:
    for name, entry in table(run.recipe.get("views")).items():
        if isinstance(entry, dict):
            value = f"{entry.get('rows', '?')} rows a step at {entry.get('size', '?')} px"
            yield Fact(name=f"view {name}", value=value, note=f"augment {entry.get('augment', '?')}")
    if source := table(table(run.recipe.get("data")).get("source")):
        settings = ", ".join(f"{key} = {value}" for key, value in source.items() if key != "use")
        yield Fact(name="training data", value=str(source.get("use", "?")), note=settings)
    if held_out := run.gallery.get("held_out"):
        yield Fact(name="images shown", value=str(held_out), note="")
    bad = sum(run.bad_samples.values())
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(run.bad_samples.items()))
    yield Fact(name="bad samples", value=str(bad), note=reasons or "none was replaced")


def _machine(run: RunData) -> Iterable[Fact]:
    for key, value in run.environment.items():
        if key in ("command", "loose_plugins", "failed_plugins") and not value:
            continue
        if isinstance(value, dict):
            text = ", ".join(f"{name} {_brief(item)}" for name, item in value.items() if item is not None)
        elif isinstance(value, list):
            text = " ".join(str(item) for item in value)
        else:
            text = "none" if value is None else str(value)
        yield Fact(name=key.replace("_", " "), value=text, note="")


def _brief(item: Any) -> str:
    return " ".join(str(part) for part in item.values() if part) if isinstance(item, dict) else str(item)


def _command(run: RunData) -> str:
    files = run.environment.get("loose_plugins")
    options = [f"--plugin {shlex.quote(str(file))}" for file in (files if isinstance(files, list) else ())]
    return " ".join(["vtp run resolved.toml", *options])


def _shown(value: object) -> str:
    return number(float(value)) if isinstance(value, int | float) else str(value)
