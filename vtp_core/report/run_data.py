"""What the report shows of a run: the contents of its folder as plain data. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

GALLERY = "samples.json"
"""List of the reconstructions, beside their PNG files."""


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
    missing: list[str] = field(default_factory=list)


def read_gallery(data: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the contents of ``samples.json``, as `vtp_core.report.gallery` writes them.

    Raises:
        ValueError: Something that the page shows is missing or of another type; says what.
    """
    try:
        images = [{**item, "psnr": float(item["psnr"])} for item in data["images"]]
        scores = [float(value) for value in data["psnr"]["values"]]
        latent = {name: [float(v) for v in data["latent"][name]] for name in ("mean", "std", "explained")}
        psnr = {"values": scores, "median": float(data["psnr"]["median"])}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not scores:
        raise ValueError("no image was measured")
    return {
        "images": images,
        "psnr": psnr,
        "latent": latent,
        "held_out": str(data.get("held_out", "")),
        "trained_on": data.get("trained_on") is True,
    }


def table(value: object) -> Mapping[str, Any]:
    """The value if it is a table, else an empty one: files may hold anything."""
    return value if isinstance(value, dict) else {}


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number that the page can compute with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
