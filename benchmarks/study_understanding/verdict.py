"""Which numbers predict generation, by the records alone."""

from __future__ import annotations

import statistics as plain

from benchmarks.study.claim import Finding
from benchmarks.study.proxies import KERNEL
from benchmarks.study.results import Results
from benchmarks.study_understanding.figures import (
    FIGURES,
    GROUPS,
    LATENTS,
    PSNR,
    Figure,
    arms_of,
    column,
)
from benchmarks.study_understanding.statistics import LEAST, Correlation, correlate

CAVEAT = (
    "32-pixel images, small tokenizers of 200 to 800 steps and one small generator: agreement does not prove "
    "the paper's claim, and disagreement does not refute it. The distance is of decoded samples, so a "
    "tokenizer that reconstructs badly can't do well in it; that is why the correlations given PSNR are "
    "shown too. The network of the distance, EfficientNet-Lite0, is also that of the critic in the arms with "
    "GAN. Arms that share an encoder are not independent, so the intervals are somewhat too narrow."
)


def write_verdict(found: Results) -> str:
    """The verdict as markdown."""
    lines = ["# study_understanding: verdict", "", found.account(), ""]
    if "samples" in found.data:
        lines += ["The records are of the package's few drawings, too few to judge anything by.", ""]
    arms = arms_of(found)
    if len(arms) < LEAST:
        lines += [f"Too few to judge: {len(arms)} arms have a distance.", "", CAVEAT]
        return "\n".join(lines) + "\n"
    protocols = {record["metrics"][KERNEL]["protocol"] for arm in arms for record in found.records[arm]}
    if len(protocols) > 1:
        lines.append(
            f"The distances are of {len(protocols)} protocols and can't be compared: measure them again."
        )
        return "\n".join(lines) + "\n"
    lines += ["## Do latents that mean more generate better?", "", *_central(found), ""]
    lines += ["## How sure one distance is", "", *_noise(found, arms), ""]
    for _, title, left_out in GROUPS:
        lines += [f"## Rank correlation with the kernel distance: {title}", "", *_table(found, left_out), ""]
    lines += ["## Which cheap number to trust", "", *_best(found), ""]
    return "\n".join([*lines, CAVEAT]) + "\n"


def correlation(
    found: Results, metric: str, left_out: frozenset[str] = frozenset(), *, given: str | None = None
) -> Correlation | None:
    """A metric's correlation with the kernel distance over arms, or with that of `given` taken out."""
    arms = arms_of(found, left_out)
    held = None if given is None else column(found, arms, given)
    return correlate(column(found, arms, metric), column(found, arms, KERNEL), held)


def finding(found: Correlation | None, sign: int) -> Finding:
    """Whether a correlation has the claimed sign.

    Returns:
        ``appeared``: the interval lies on that side of zero; ``reversed``: on the other; ``leaning``: it
        holds zero, and rho has the sign; ``absent``: it holds zero, and rho has not; ``open``: too few arms.
    """
    if found is None:
        return "open"
    low, high = sorted((sign * found.low, sign * found.high))
    if low > 0:
        return "appeared"
    if high < 0:
        return "reversed"
    return "leaning" if sign * found.rho > 0 else "absent"


SAID: dict[Finding, str] = {
    "appeared": "the whole interval has the claimed sign",
    "leaning": "rho has the claimed sign, but the interval contains zero: it may be chance",
    "absent": "rho does not have the claimed sign, and the interval contains zero",
    "reversed": "the whole interval has the other sign",
    "open": "too few arms",
}


def findings(found: Results) -> dict[str, Finding]:
    """What the ledger of claims may name: of the probe, and of it given PSNR."""
    return {
        "probe against distance": finding(correlation(found, LATENTS), -1),
        "probe against distance, given PSNR": finding(correlation(found, LATENTS, given=PSNR), -1),
        "PSNR against distance": finding(correlation(found, PSNR), -1),
    }


def _central(found: Results) -> list[str]:
    lines = []
    for title, given in (("as they are", None), ("given PSNR", PSNR)):
        rho = correlation(found, LATENTS, given=given)
        said = finding(rho, -1)
        lines.append(f"- Probe of the latents against distance, {title}: {rho or '–'}, {said}: {SAID[said]}.")
    rho = correlation(found, PSNR)
    lines.append(
        f"- PSNR against distance: {rho or '–'}. The paper says that better pixels do not generate better: a "
        "rho well below zero speaks against that here."
    )
    return lines


def _noise(found: Results, arms: list[str]) -> list[str]:
    repeated = {
        arm: [float(proxy["kernel"]) for proxy in found.records[arm][0].get("proxies", [])] for arm in arms
    }
    repeated = {arm: values for arm, values in repeated.items() if len(values) > 1}
    if not repeated:
        return ["No arm has several proxies yet."]
    lines = [
        f"- {arm}: {plain.fmean(values):.4g}, deviation {plain.stdev(values):.2g} over {len(values)} proxies"
        for arm, values in repeated.items()
    ]
    error = plain.fmean([plain.variance(values) for values in repeated.values()])
    spread = plain.variance([found.values(arm, KERNEL)[0] for arm in arms])
    share = max(0.0, 1 - error / spread) if spread else 0.0
    return [
        *lines,
        f"- Deviation of one distance {error**0.5:.2g}, of the arms' distances {spread**0.5:.2g}: "
        f"{share:.0%} of the variance is the tokenizers', so that no correlation can be expected beyond "
        f"{share**0.5:.2f}.",
    ]


def _table(found: Results, left_out: frozenset[str]) -> list[str]:
    lines = ["| number | arms | rho | rho given PSNR | claim |", "| --- | --- | --- | --- | --- |"]
    rows = []
    for figure in FIGURES:
        rho = correlation(found, figure.metric, left_out)
        given = None if figure.metric == PSNR else correlation(found, figure.metric, left_out, given=PSNR)
        if rho is None:
            continue
        said = finding(rho, figure.sign) if figure.sign else "none"
        rows.append((abs(rho.rho), f"| {figure.title} | {rho.arms} | {rho} | {given or '–'} | {said} |"))
    return [*lines, *(line for _, line in sorted(rows, reverse=True))]


def _best(found: Results) -> list[str]:
    judged: list[tuple[Figure, Correlation]] = []
    for figure in FIGURES:
        rho = correlation(found, figure.metric)
        if rho is not None and rho.low * rho.high > 0:
            judged.append((figure, rho))
    if not judged:
        return ["Every number's interval contains zero: trust none of them here."]
    judged.sort(key=lambda pair: -abs(pair[1].rho))
    lines = [f"- {figure.title}: {rho}" for figure, rho in judged]
    return [
        f"Of {len(FIGURES)} numbers these differ from zero; by chance alone one in twenty would:",
        "",
        *lines,
        "",
        f"The strongest is {judged[0][0].title}. These same records chose it: expect less of it elsewhere.",
    ]
