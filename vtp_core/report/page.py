"""The page ``report.html``: one file, offline, readable without JavaScript. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2

import vtp_core
from vtp_core.report import curves, tables
from vtp_core.report.chart import number
from vtp_core.report.pictures import embed
from vtp_core.report.run_data import RunData
from vtp_core.report.sentence import facts, is_finished, sentence, whole
from vtp_core.report.verdict import alarms, cards

STRIP = 8
"""Images of the strip on the first screen."""
CAPTION = 160
"""Characters of a caption that are shown."""

NOTHING: Mapping[str, Any] = {
    "generated": None,
    "queries": (),
    "neighbours": (),
    "interpolations": (),
    "references": (),
    "held_out": "",
    "trained_on": False,
}
"""A gallery without pictures."""
GROUPS = {"worst": "The worst of these images", "median": "Around the median"}


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
    environment.filters["brief"] = _brief
    environment.filters["whole"] = whole
    environment.filters["decibel"] = lambda value: f"{float(value):.2f} dB"
    by_group: dict[str, list[dict[str, Any]]] = {}
    for item in run.gallery.get("images", []):
        by_group.setdefault(item["group"], []).append(item)
    spread = by_group.pop("spread", [])
    pictures = embed(run.images, _files(run.gallery))
    unreadable = [f"samples: {pictures.unreadable} images can't be read"] if pictures.unreadable else []
    return environment.get_template("report.html.j2").render(
        name=run.name,
        version=vtp_core.__version__,
        sentence=sentence(run),
        finished=is_finished(run),
        facts=facts(run),
        alarms=[*alarms(run), *unreadable],
        cards=cards(run),
        pictures=pictures,
        strip=spread[:STRIP],
        more=spread[STRIP:],
        groups=[{"title": GROUPS.get(name, name), "rows": rows} for name, rows in by_group.items()],
        gallery={**NOTHING, **run.gallery},
        validation=curves.validation(run),
        losses=curves.losses(run),
        expert=curves.expert(run),
        latent=tables.latent(run),
        data=list(tables.data(run)),
        machine=list(tables.machine(run)),
        recipe_text=run.recipe_text,
        command=tables.command(run),
    )


def _files(gallery: Mapping[str, Any]) -> list[str]:
    """Files of the gallery, the most important first."""
    items = gallery.get("images", [])
    strip, rest = items[:STRIP], items[STRIP:]
    near = gallery.get("neighbours", [])
    names = [item[kind] for item in strip for kind in ("input", "output")]
    names += [name for row in (gallery.get("generated") or {"rows": ()})["rows"] for name in row["files"]]
    names += [entry["input"] for query in gallery.get("queries", []) for entry in query["found"]]
    names += [entry["input"] for query in near for entry in (query["asked"], *query["found"])]
    names += [frame for line in gallery.get("interpolations", []) for frame in line["frames"]]
    names += [item[kind] for item in rest for kind in ("input", "output")]
    names += [item["latent"] for item in items]
    names += [column["file"] for item in items for column in item["references"]]
    names += [item["error"] for item in items]
    return names


def _brief(text: object) -> str:
    words = " ".join(str(text).split())
    return words if len(words) <= CAPTION else words[: CAPTION - 1] + "…"


def _shown(value: object) -> str:
    return number(float(value)) if isinstance(value, int | float) else str(value)
