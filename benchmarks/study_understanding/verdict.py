"""Which numbers predict generation, by the records alone."""

from __future__ import annotations

import statistics as plain

from benchmarks.study.claim import Finding
from benchmarks.study.proxies import KERNEL
from benchmarks.study.results import Results
from benchmarks.study_understanding.arms import WIDE
from benchmarks.study_understanding.figures import (
    FIGURES,
    GROUPS,
    LATENTS,
    PSNR,
    RECONSTRUCTION,
    arms_of,
    column,
    protocols_of,
)
from benchmarks.study_understanding.statistics import ENOUGH, LEAST, Correlation, correlate, repeatability

CAVEAT = (
    "32-pixel images, small tokenizers of 200 to 800 steps, one seed each, and one small generator: "
    "agreement does not prove the paper's claim, and disagreement does not refute it. The distance is of "
    "decoded samples, so a tokenizer that reconstructs badly can't do well in it; that is why the "
    "correlations with the quality of reconstructions taken out are shown too. The network of the distance, "
    "EfficientNet-Lite0, is also that of the critic in the arms with GAN. Arms that share an encoder are not "
    "independent, so the intervals are somewhat too narrow."
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
    if len(arms) < ENOUGH:
        lines += [
            f"Provisional: {len(arms)} arms have a distance, and correlations of fewer than {ENOUGH} are not "
            "judged.",
            "",
        ]
    if len(protocols := protocols_of(found, KERNEL)) > 1:
        lines.append(
            f"The distances are of {len(protocols)} protocols and can't be compared: measure them again."
        )
        return "\n".join(lines) + "\n"
    lines += ["## Do better understood latents generate better?", "", *_central(found), ""]
    lines += ["## Error of one proxy", "", *_noise(found, arms), ""]
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
        contains zero, and rho has the sign; ``absent``: it contains zero, and rho has not; ``open``: fewer
        than `ENOUGH` arms.
    """
    if found is None or found.arms < ENOUGH:
        return "open"
    low, high = sorted((sign * found.low, sign * found.high))
    if low > 0:
        return "appeared"
    if high < 0:
        return "reversed"
    return "leaning" if sign * found.rho > 0 else "absent"


ANSWERS: dict[Finding, str] = {
    "appeared": "yes, over these tokenizers",
    "leaning": "not shown; rho has the claimed sign, but that may be chance",
    "absent": "not shown; rho does not have the claimed sign",
    "reversed": "the opposite, over these tokenizers",
    "open": f"not judged; fewer than {ENOUGH} tokenizers",
}
PIXELS: dict[Finding, str] = {
    "appeared": "tokenizers of higher PSNR have worse samples here, which agrees with the paper",
    "leaning": "no relation is shown, which does not contradict the paper",
    "absent": "no relation is shown, which does not contradict the paper",
    "reversed": "tokenizers of higher PSNR have better samples here, which contradicts the paper",
    "open": "not judged",
}


SIGNS = {1: "positive", -1: "negative"}
GIVEN = (
    (PSNR, "PSNR"),
    (RECONSTRUCTION, "the kernel distance of reconstructions"),
    ("channels", "the number of channels"),
)
"""What is taken out of the central correlation."""


def findings(found: Results) -> dict[str, Finding]:
    """What the ledger of claims may name: of the probe, of it given PSNR, of PSNR."""
    return {
        "probe against distance": finding(correlation(found, LATENTS), -1),
        "probe against distance, given PSNR": finding(correlation(found, LATENTS, given=PSNR), -1),
        "distance does not fall with PSNR": finding(correlation(found, PSNR), 1),
    }


def _central(found: Results) -> list[str]:
    rho, pixels = correlation(found, LATENTS), correlation(found, PSNR)
    judged, given_psnr, of_pixels = findings(found).values()
    lines = [
        f"As they are: {ANSWERS[judged]}. With PSNR taken out: {ANSWERS[given_psnr]}. The claim is that rho "
        "is negative: the better the linear probe of the latents, the smaller the kernel distance of "
        "generated samples. Spearman's rho with its 95 % interval:",
        "",
        f"- probe: {rho or '–'}, {judged}",
    ]
    for metric, title in GIVEN:
        rho = correlation(found, LATENTS, given=metric)
        lines.append(f"- probe, given {title}: {rho or '–'}, {finding(rho, -1)}")
    wide = frozenset(WIDE)
    of, given = correlation(found, LATENTS, wide), correlation(found, LATENTS, wide, given=PSNR)
    return [
        *lines,
        f"- probe, without {len(wide)} frozen fusions, whose latents have more channels than the proxy's "
        f"transformer is wide: {of or '–'}, {finding(of, -1)}; given PSNR: {given or '–'}, "
        f"{finding(given, -1)}. This group was chosen after 25 records were seen.",
        f"- PSNR: {pixels or '–'}; given the probe: {correlation(found, PSNR, given=LATENTS) or '–'}. The "
        "paper says that better pixels do not generate better, so rho should not be negative: "
        f"{PIXELS[of_pixels]}.",
    ]


def _noise(found: Results, arms: list[str]) -> list[str]:
    records = {arm: found.records[arm][0] for arm in arms}
    trivial = {arm: float(records[arm]["metrics"][KERNEL].get("baseline", "nan")) for arm in arms}
    better = [arm for arm in arms if found.values(arm, KERNEL)[0] < trivial[arm]]
    lines = [
        f"- {len(better)} of {len(arms)} proxies have a smaller distance than decoded Gaussian latents of "
        "the same mean and deviation."
    ]
    repeated = {arm: [float(proxy["kernel"]) for proxy in records[arm].get("proxies", [])] for arm in arms}
    repeated = {arm: values for arm, values in repeated.items() if len(values) > 1}
    if not repeated:
        return [*lines, "- No tokenizer has several proxies yet."]
    lines += [
        f"- {arm}: mean {plain.fmean(values):.4g}, standard deviation {plain.stdev(values):.2g} over "
        f"{len(values)} proxies"
        for arm, values in repeated.items()
    ]
    error = plain.fmean([plain.variance(values) for values in repeated.values()]) ** 0.5
    distances = column(found, arms, KERNEL)
    return [
        *lines,
        f"- Standard deviation of one proxy's distance {error:.2g}, of the distances of all tokenizers "
        f"{distances.std(ddof=1):.2g}. With that error added, the distances keep a rank correlation of "
        f"{repeatability(distances, error):.3f} with themselves: about the most that any number can reach. "
        "The error of a tokenizer's own training is not known: it has one seed.",
    ]


def _table(found: Results, left_out: frozenset[str]) -> list[str]:
    lines = [
        "| number | tokenizers | rho | rho given PSNR | claimed sign |",
        "| --- | --- | --- | --- | --- |",
    ]
    rows, several = [], []
    for figure in FIGURES:
        rho = correlation(found, figure.metric, left_out)
        given = None if figure.metric == PSNR else correlation(found, figure.metric, left_out, given=PSNR)
        if rho is None:
            continue
        said = f"{SIGNS[figure.sign]}: {finding(rho, figure.sign)}" if figure.sign else "none"
        rows.append((abs(rho.rho), f"| {figure.title} | {rho.arms} | {rho} | {given or '–'} | {said} |"))
        if len(protocols_of(found, figure.metric)) > 1:
            several.append(figure.title)
    lines += [line for _, line in sorted(rows, reverse=True)]
    if several:
        lines += ["", f"Measured by more than one protocol, so compare with care: {', '.join(several)}."]
    return lines


def _best(found: Results) -> list[str]:
    pairs = [(figure, correlation(found, figure.metric)) for figure in FIGURES]
    known = [(figure, rho) for figure, rho in pairs if rho is not None and rho.arms >= ENOUGH]
    if not known:
        return [f"Not judged: no number is known of {ENOUGH} tokenizers."]
    told = sorted(
        (pair for pair in known if pair[1].low * pair[1].high > 0), key=lambda pair: -abs(pair[1].rho)
    )
    if not told:
        return ["Every number's interval contains zero: trust none of them here."]
    return [
        f"Of {len(known)} numbers that {ENOUGH} tokenizers or more have, these have an interval without "
        "zero. If none were related to the distance, about one in twenty would still be listed.",
        "",
        *(
            f"- {figure.title}: {rho}, {'more' if rho.rho < 0 else 'less'} of it goes with better samples"
            for figure, rho in told
        ),
        "",
        f"The strongest is: {told[0][0].title}. These same records chose it, so expect less of it elsewhere; "
        "where intervals overlap, the order of the numbers is not established.",
    ]
