"""What the model card says of a run: its numbers, data, and where weights come from. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vtp_core.artefact.card import Number, Training
from vtp_core.artefact.config import ArtefactConfig
from vtp_core.evaluation.history import PREFIX
from vtp_core.evaluation.protocol import shown, shown_beside
from vtp_core.report.run_data import RunData
from vtp_core.report.tables import data


def training_of(run: RunData, config: ArtefactConfig) -> Training:
    """Numbers and data of a run for the card of one of its artefacts.

    Numbers are left out if ``eval.json`` is of another step or of other weights than the artefact.

    Args:
        run: The contents of the run folder.
        config: Of the artefact.
    """
    measured = [row["step"] for row in run.metrics if any(key.startswith(PREFIX) for key in row)]
    own = config.weights == "student" and measured and max(measured) == config.step
    try:
        numbers = tuple(_numbers(run.evaluation)) if own else ()
    except (KeyError, TypeError, ValueError):  # an eval.json that was edited
        numbers = ()
    return Training(numbers=numbers, facts=tuple(_facts(run)))


def _numbers(evaluation: Mapping[str, Mapping[str, Any]]) -> Iterator[Number]:
    for entry in evaluation.values():
        bounds, trivial = entry.get("interval"), entry.get("baseline")
        plain, beside = {**entry, "unit": ""}, shown_beside(entry)
        yield Number(
            title=str(entry["title"]),
            value=shown(float(entry["value"]), entry) + (f" ({beside})" if beside else ""),
            interval="" if bounds is None else " to ".join(shown(bound, plain) for bound in bounds),
            trivial="" if trivial is None else f"{shown(trivial, plain)} ({entry['baseline_name']})",
            protocol=str(entry["protocol"]),
        )


def _facts(run: RunData) -> Iterator[tuple[str, str]]:
    for fact in data(run):
        if fact.name != "images shown":
            yield fact.name, f"{fact.value} ({fact.note})" if fact.note else fact.value
    start = run.recipe.get("init_from")
    if isinstance(start, dict) and start.get("path"):
        yield "weights at the start", f"those of {start['path']}"
