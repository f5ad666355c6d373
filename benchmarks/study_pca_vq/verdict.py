"""Whether principal axes help a codebook on frozen features, from the records alone. Imports no torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from benchmarks.study.claim import judge
from benchmarks.study.results import Results, spread
from benchmarks.study_pca_vq.arms import (
    BASES,
    DECODED,
    FACTORS,
    FORECASTS,
    MAIN,
    METRICS,
    NARROW,
    ROWS,
    SETS,
    STARTS,
    name_of,
)

USE, PERPLEXITY, ERROR, PSNR, PROBE = "use", "perplexity", "error", "psnr", "probe"
TRAINED = "psnr_trained"
FORECAST = "forecast_use"
WITHIN = 0.1
"""A forecast of use this close is right."""
STUDENT = {2: 12.706, 3: 4.303}
"""97.5 % quantile of Student's t for a mean of so many differences."""
DIGITS = ((USE, 3), (PERPLEXITY, 0), (ERROR, 3), (PSNR, 2), (PROBE, 3))

CAVEAT = (
    "The encoders are a supervised convolutional network and a small transformer, not DINO; images are "
    "small. Codebooks follow the features for 300 steps; the decoder is linear but for six rows. "
    "PSNR compares cells with each other, and with no published number."
)


def paired(above: Sequence[float], below: Sequence[float]) -> tuple[float, float]:
    """Mean difference over seeds, and half of its 95 % interval; infinite with one seed.

    A seed draws the same images and the same first vectors in every cell.
    """
    differences = [a - b for a, b in zip(above, below, strict=True)]
    if len(differences) not in STUDENT:
        return statistics.fmean(differences), math.inf
    half = STUDENT[len(differences)] * statistics.stdev(differences) / len(differences) ** 0.5
    return statistics.fmean(differences), half


def write_verdict(found: Results) -> str:
    """The verdict as markdown."""
    lines = ["# study_pca_vq: verdict", "", found.account(), ""]
    if "samples" in found.data:
        lines += ["The records are of the package's few drawings, too few to judge anything by.", ""]
    lines += ["## Do principal axes beat the plain metric, with revival?", ""]
    lines += [
        "Difference to plain, 95 % interval over seeds; it passes where PSNR and perplexity are both above",
        "plain in every seed:",
        "",
        *_main(found),
    ]
    lines += ["", "## What quantising costs", "", *_quantising(found)]
    lines += ["", "## Do narrow codebooks win?", ""]
    lines += ["Eight dimensions against all, plain, k-means++, revival:", "", *_narrow(found)]
    lines += ["", "## One factor at a time", "", "k-means++, revival, one seed:", "", *_factors(found)]
    lines += ["", "## With a trained decoder", "", *_trained(found)]
    lines += ["", "## Is the forecast of use right?", "", *_forecasts(found)]
    return "\n".join([*lines, "", CAVEAT]) + "\n"


def _main(found: Results) -> list[str]:
    lines = []
    for features in SETS:
        for metric in MAIN[1:]:
            for start in STARTS:
                above, below = name_of(features, metric, start), name_of(features, "plain", start)
                if (line := _difference(found, above, below)) is not None:
                    findings = [
                        judge(found.values(above, name), found.values(below, name))
                        for name in (PSNR, PERPLEXITY)
                    ]
                    passed = "passes" if set(findings) == {"appeared"} else "does not pass"
                    lines.append(f"- {features}, {metric}, {start}: {passed} ({line})")
    return lines or ["- nothing yet"]


def _narrow(found: Results) -> list[str]:
    wide = name_of("cifar", "plain")
    line = _difference(found, f"{wide}.{NARROW.replace('=', '_')}", wide)
    return ["- nothing yet"] if line is None else [f"- {line}"]


def _difference(found: Results, above: str, below: str) -> str | None:
    """Differences of two cells; None if one has fewer than two seeds, or they have others."""
    seeds = [[record["seed"] for record in found.records.get(arm, ())] for arm in (above, below)]
    if seeds[0] != seeds[1] or len(seeds[0]) < 2:
        return None
    parts = []
    for name, digits in ((PSNR, 3), (PERPLEXITY, 1), (USE, 3), (PROBE, 3)):
        mean, half = paired(found.values(above, name), found.values(below, name))
        parts.append(f"{name} {mean:+.{digits}f} ± {half:.{digits}f}")
    return "; ".join(parts)


def _quantising(found: Results) -> list[str]:
    lines = []
    for features in SETS:
        for title, arm in (
            ("DINO-Dec, not quantised", f"{features}.dino_dec"),
            ("DINO-VQ, one plain codebook", name_of(features, "plain", "data", revive=False)),
            ("plain, k-means++, revival", name_of(features, "plain")),
        ):
            if found.records.get(arm):
                numbers = (
                    f"PSNR {spread(found.values(arm, PSNR), 2)}, probe {spread(found.values(arm, PROBE))}"
                )
                lines.append(f"- {features}, {title}: {numbers}")
    return lines or ["- nothing yet"]


def _factors(found: Results) -> list[str]:
    names = [*(name_of("cifar", metric) for metric in METRICS)]
    for base in BASES:
        names += [name_of("cifar", base, start) for start in ("data", "random", "normal")]
        names += [f"{name_of('cifar', base)}.{more.replace('=', '_')}" for more in FACTORS]
    lines = []
    for name in names:
        values = {metric: found.values(name, metric)[:1] for metric, _ in DIGITS}
        if values[PSNR]:
            shown = ", ".join(f"{metric} {spread(values[metric], digits)}" for metric, digits in DIGITS)
            lines.append(f"- {name}: {shown}")
    return lines or ["- nothing yet"]


def _trained(found: Results) -> list[str]:
    lines = []
    for name in ROWS:
        arm = f"{DECODED}.{name}"
        if values := found.values(arm, TRAINED):
            ridge = spread(found.values(arm, PSNR), 2)
            line = f"- {name}: PSNR {spread(values, 2)} dB (ridge {ridge})"
            base = found.values(f"{DECODED}.plain", TRAINED)
            if name != "plain" and len(base) == len(values) > 1:
                mean, half = paired(values, base)
                line += f"; {mean:+.2f} ± {half:.2f} beside plain"
            lines.append(line)
    return lines or ["- nothing yet"]


def _forecasts(found: Results) -> list[str]:
    lines, right = [], 0
    for features in FORECASTS:
        said, was = (found.values(f"use.{features}", name) for name in (FORECAST, USE))
        if said and was:
            close = abs(said[0] - was[0]) <= WITHIN
            right += close
            lines.append(
                f"- {features}: {100 * said[0]:.0f} % said, {100 * was[0]:.0f} % measured"
                f"{'' if close else ', wrong'}"
            )
    return [f"{right} of {len(lines)} within {100 * WITHIN:.0f} points.", "", *lines]
