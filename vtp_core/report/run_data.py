"""What the report shows of a run: the contents of its folder as plain data. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from vtp_core.evaluation.sampling import sampling_text

GALLERY = "samples.json"
"""List of the pictures, beside their PNG files."""
GALLERY_VERSION = 2
"""Of that list; pictures of another version are made again."""


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The contents of a run folder; missing or damaged parts are empty and named in `missing`.

    Attributes:
        name: The recipe's name, or that of the folder.
        recipe: ``resolved.toml`` as data.
        recipe_text: Its text.
        environment: ``environment.json``.
        metrics: Lines of ``metrics.jsonl``.
        evaluation: ``eval.json``: metric -> entry.
        gallery: ``samples/samples.json``, checked by `read_gallery`.
        images: Folder of the gallery's PNG files.
        artefact: ``tokenizer/config.json``.
        bad_samples: Reason -> distinct samples that were replaced, on all ranks.
        chance: Key of ``metrics.jsonl`` -> its value if the objective had learned nothing.
        best: Step, metric and value of the best checkpoint, or None.
        missing: What is missing or can't be read, one line each.
    """

    name: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    recipe_text: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    evaluation: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    gallery: Mapping[str, Any] = field(default_factory=dict)
    images: Path
    artefact: Mapping[str, Any] = field(default_factory=dict)
    bad_samples: Mapping[str, int] = field(default_factory=dict)
    chance: Mapping[str, float] = field(default_factory=dict)
    best: tuple[int, str, float] | None = None
    missing: list[str] = field(default_factory=list)


def read_gallery(data: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the contents of ``samples.json``, as `vtp_core.report.gallery` writes them.

    Raises:
        ValueError: Something that the page shows is missing or of another type; says what.
    """
    try:
        images = [_image(item) for item in data["images"]]
        scores = [float(value) for value in data["psnr"]["values"]]
        latent = {name: [float(v) for v in data["latent"][name]] for name in ("mean", "std", "explained")}
        latent |= {name: [int(v) for v in data["latent"].get(name, ())] for name in ("shape", "codes")}
        psnr = {"values": scores, "median": float(data["psnr"]["median"])}
        psnr["mean"] = float(data["psnr"].get("mean", sum(scores) / max(len(scores), 1)))
        checked = {
            "bytes": float(data.get("bytes", 0)),
            "references": _columns(data.get("references", [])),
            "queries": [_query(item) for item in data.get("queries", [])],
            "neighbours": [
                {**_query(item), "asked": _entry(item["asked"])} for item in data.get("neighbours", [])
            ],
            "interpolations": [
                {"from": str(item["from"]), "to": str(item["to"]), "frames": [str(f) for f in item["frames"]]}
                for item in data.get("interpolations", [])
            ],
            "generated": _samples(data.get("generated")),
            "parameters": {str(name): int(n) for name, n in data.get("parameters", {}).items()},
        }
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not scores:
        raise ValueError("no image was measured")
    held_out = str(data.get("held_out", ""))
    return {
        "images": images,
        "psnr": psnr,
        "latent": latent,
        "held_out": held_out,
        "trained_on": data.get("trained_on") is True,
        **checked,
    }


def _samples(data: Any) -> dict[str, Any] | None:
    """Samples of a generator, as `vtp_core.report.generated` wrote them; None if there are none."""
    if data is None:
        return None
    rows = [{"title": str(row["title"]), "files": list(map(str, row["files"]))} for row in data["rows"]]
    settings = {str(key): value for key, value in data["settings"].items()}
    shown = sampling_text(settings) if settings else ""
    return {"rows": rows, "seed": int(data["seed"]), "settings": shown} if rows else None


def _entry(item: Any) -> dict[str, Any]:
    """An image that the page shows: its key, caption and file."""
    return {"key": str(item["key"]), "caption": str(item["caption"] or ""), "input": str(item["input"])}


def _image(item: Any) -> dict[str, Any]:
    """An image with everything that was made of it."""
    files = {name: str(item[name]) for name in ("output", "error", "latent")}
    return {
        **_entry(item),
        **files,
        "group": str(item["group"]),
        "psnr": float(item["psnr"]),
        "references": _columns(item.get("references", [])),
    }


def _columns(items: Any) -> list[dict[str, Any]]:
    return [
        {
            "title": str(item["title"]),
            "psnr": float(item["psnr"]),
            "bytes": float(item["bytes"]),
            "note": str(item.get("note", "")),
            "file": str(item.get("file", "")),
        }
        for item in items
    ]


def _query(item: Any) -> dict[str, Any]:
    rank = item["rank"]
    return {
        "text": str(item["text"]),
        "kind": str(item["kind"]),
        "rank": None if rank is None else int(rank),
        "found": [
            {**_entry(found), "similarity": float(found["similarity"]), "match": found.get("match")}
            for found in item["found"]
        ],
    }


def table(value: object) -> Mapping[str, Any]:
    """The value if it is a table, else an empty one: files may hold anything."""
    return value if isinstance(value, dict) else {}


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number that the page can compute with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
