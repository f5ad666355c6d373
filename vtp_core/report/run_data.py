"""What a run folder holds, read for the report; a missing or damaged part is told, not fatal. No torch."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtp_core.errors import UsageError
from vtp_core.recipe.history import current_metrics


@dataclass(frozen=True, kw_only=True)
class RunData:
    """A run folder.

    Attributes:
        folder: Where it is.
        recipe: ``resolved.toml`` as data.
        recipe_text: Its text.
        environment: ``environment.json``.
        metrics: Lines of ``metrics.jsonl``.
        evaluation: ``eval.json``: metric -> entry.
        gallery: ``samples/samples.json``.
        artefact: ``tokenizer/config.json``.
        bad_samples: Reason -> samples in ``quarantine.jsonl``.
        missing: What the folder lacks or what can't be read, one line each.
    """

    folder: Path
    recipe: dict[str, Any]
    recipe_text: str
    environment: dict[str, Any]
    metrics: list[dict[str, Any]]
    evaluation: dict[str, dict[str, Any]]
    gallery: dict[str, Any]
    artefact: dict[str, Any]
    bad_samples: dict[str, int]
    missing: list[str]


def read_run(folder: Path) -> RunData:
    """Reads a run folder.

    Raises:
        UsageError: It is no run folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give the folder of a run, such as runs/quickstart")
    if not (folder / "resolved.toml").is_file():
        raise UsageError(f"{folder}: not a run folder (no resolved.toml); give one that `vtp run` wrote")
    missing: list[str] = []
    recipe_text = (folder / "resolved.toml").read_text(encoding="utf-8", errors="replace")
    try:
        recipe = tomllib.loads(recipe_text)
    except tomllib.TOMLDecodeError as error:
        recipe = {}
        missing.append(f"resolved.toml can't be read: {error}")
    evaluation = _object(folder / "eval.json", missing)
    return RunData(
        folder=folder,
        recipe=recipe,
        recipe_text=recipe_text,
        environment=_object(folder / "environment.json", missing),
        metrics=_lines(folder / "metrics.jsonl", missing),
        evaluation={name: entry for name, entry in evaluation.items() if isinstance(entry, dict)},
        gallery=_gallery(folder / "samples" / "samples.json", missing),
        artefact=_object(folder / "tokenizer" / "config.json", missing),
        bad_samples=dict(
            Counter(str(line.get("reason", "unknown")) for line in _lines(folder / "quarantine.jsonl", []))
        ),
        missing=missing,
    )


def _object(path: Path, missing: list[str]) -> dict[str, Any]:
    name = (
        path.name if path.parent.name not in ("samples", "tokenizer") else f"{path.parent.name}/{path.name}"
    )
    if not path.is_file():
        missing.append(f"no {name}")
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        missing.append(f"{name} can't be read: {error}")
        return {}
    if not isinstance(data, dict):
        missing.append(f"{name} holds no object")
        return {}
    return data


def _gallery(path: Path, missing: list[str]) -> dict[str, Any]:
    """What `vtp_core.report.gallery` wrote, or nothing if it lacks what the page shows."""
    data = _object(path, missing)
    if not data:
        return {}
    try:
        images = [{**item, "psnr": float(item["psnr"])} for item in data["images"]]
        scores = [float(value) for value in data["psnr"]["values"]]
        latent = {name: [float(v) for v in data["latent"][name]] for name in ("mean", "std", "explained")}
        psnr = {"values": scores, "median": float(data["psnr"]["median"])}
        if not scores:
            raise ValueError("no image was measured")
    except (KeyError, TypeError, ValueError) as error:
        missing.append(
            f"samples/samples.json is not what the report writes ({type(error).__name__}: {error})"
        )
        return {}
    return {"images": images, "psnr": psnr, "latent": latent, "held_out": str(data.get("held_out", ""))}


def _lines(path: Path, missing: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        missing.append(f"no {path.name}")
        return []
    rows, broken = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            broken += 1
            continue
        if isinstance(row, dict):
            rows.append(current_metrics(row))
    if broken:
        missing.append(f"{path.name}: {broken} lines can't be read")
    return rows
