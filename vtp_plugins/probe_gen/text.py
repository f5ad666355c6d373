"""The ranking as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vtp_core.cli.output import table
from vtp_core.evaluation.protocol import Metric, Score
from vtp_plugins.probe_gen.ranking import GAUSSIAN, Reached, Speed, ranking, speeds
from vtp_plugins.probe_gen.record import Record

KERNEL, FRECHET = Metric(title="Kernel distance"), Metric(title="Fréchet distance", low=0)


def as_data(
    measured: Mapping[str, Sequence[Record]], *, curve: bool = False, reach: float | None = None
) -> dict[str, Any]:
    """The ranking, curves and records, ready for JSON.

    Args:
        measured: Tokenizer -> its records of the same seeds.
        curve: Whether to compare curves.
        reach: Fréchet distance of EP_FID, or None.
    """
    places = ranking(measured)
    data: dict[str, Any] = {
        "protocol": places[0].records[0].protocol,
        "seeds": [record.seed for record in places[0].records],
        "ranking": [
            {
                "tokenizer": place.name,
                "kernel": _score(place.kernel, KERNEL),
                "frechet": None if place.frechet is None else _score(place.frechet, FRECHET),
                "beside_gaussian": place.verdict,
                "beside_first": place.beside_first,
                "records": [record.model_dump(mode="json") for record in place.records],
            }
            for place in places
        ],
    }
    if curve:
        level, found = speeds(places, reach)
        data["curves"] = {
            "kernel_level": level,
            "frechet_level": reach,
            "tokenizers": {
                name: {
                    "mean": [point.model_dump() for point in speed.curve],
                    "steps_to_kernel_level": speed.steps.steps,
                    "steps_at_most": speed.steps.at_most,
                    "times_faster": speed.times_faster,
                    "times_faster_at_least": speed.times_faster is not None and speed.steps.at_most,
                    "epochs_to_frechet_level": None if speed.epochs is None else speed.epochs.steps,
                    "epochs_at_most": speed.epochs is not None and speed.epochs.at_most,
                }
                for name, speed in found.items()
            },
        }
    return data


def as_text(
    measured: Mapping[str, Sequence[Record]], *, curve: bool = False, reach: float | None = None
) -> str:
    """The same as tables; arguments as of `as_data`."""
    places = ranking(measured)
    rows: list[tuple[str, ...]] = [
        ("tokenizer", "kernel distance", "Fréchet", "Gaussian latents", "than Gaussian", "than the first")
    ]
    rows += [
        (
            place.name,
            _shown(place.kernel),
            "-" if place.frechet is None else _shown(place.frechet),
            f"{place.kernel.baselines[GAUSSIAN].value:.4g}",
            place.verdict or "?",
            place.beside_first or ("" if place is places[0] else "?"),
        )
        for place in places
    ]
    lines = [table(rows)]
    if curve:
        lines += ["", _curves(*speeds(places, reach), reach)]
    lines += [f"{place.name}: {note}" for place in places for note in place.records[0].notes]
    if any(place.frechet is None for place in places):
        lines += ["", "no Fréchet distance: it needs more images and samples than the network has features"]
    if len(places[0].records) == 1:
        lines += ["", "one seed gives no error estimate; use --seeds 3"]
    return "\n".join(
        [*lines, "", f"{places[0].records[0].protocol}; seeds 0 to {len(places[0].records) - 1}"]
    )


def _curves(level: float, found: Mapping[str, Speed], reach: float | None) -> str:
    steps = [point.step for point in next(iter(found.values())).curve]
    rows: list[tuple[str, ...]] = [
        (
            "tokenizer",
            *(f"step {step}" for step in steps),
            f"steps to {level:.4g}",
            "times faster",
            *([] if reach is None else [f"EP_FID@{reach:g}"]),
        )
    ]
    for name, speed in found.items():
        unknown = "-" if speed.curve[-1].frechet is None else "not reached"
        epochs = unknown if speed.epochs is None else f"{_bound(speed.epochs)}{speed.epochs.steps:.3g} epochs"
        faster = "?"
        if speed.times_faster is not None:
            faster = f"{'≥ ' if speed.steps.at_most else ''}{speed.times_faster:.2f}"
        rows.append(
            (
                name,
                *(f"{point.kernel:.4g}" for point in speed.curve),
                f"{_bound(speed.steps)}{speed.steps.steps:.0f}",
                faster,
                *([] if reach is None else [epochs]),
            )
        )
    return table(rows)


def _bound(reached: Reached) -> str:
    return "≤ " if reached.at_most else ""


def _score(score: Score, metric: Metric) -> dict[str, Any]:
    interval = score.interval
    return {
        "value": score.value,
        "error": score.error,
        "interval": None if interval is None else list(metric.within(interval, score.value)),
        "baselines": {name: trivial.value for name, trivial in score.baselines.items()},
    }


def _shown(score: Score) -> str:
    return f"{score.value:.4g}" + ("" if score.error is None else f" ± {score.error:.2g}")
