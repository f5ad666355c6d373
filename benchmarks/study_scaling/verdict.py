"""What the curves say of the paper's figures, from the records alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.study.claim import Claim, describe
from benchmarks.study.proxies import KERNEL
from benchmarks.study.results import Results, spread
from benchmarks.study_scaling.arms import FAMILIES
from benchmarks.study_scaling.curves import METRICS, TITLES, curves
from vtp_plugins.scale.analysis import Shown
from vtp_plugins.scale.text import MODELS, describe_crossing, describe_curve

PROBE = "linear_probe"
PAPER = (
    "The paper's own curves cross at about 1e19 forward FLOPs (4e18 for S, 6e18 for B, 1.4e19 for L, after "
    "80, 48 and 37 million image-text rows). Below that its auto-encoder alone generates better."
)
DATA = ("500", "5000", "30000")
AE = FAMILIES["ae"]
CHAINS = 4
"""Training runs of a family in the main grid: two sizes, two seeds."""


CAVEAT = (
    "32-pixel images, encoders of six blocks, two seeds of training and one small generator for each "
    "tokenizer: what shows here need not hold at the paper's size. Two seeds an arm allow no test: of two "
    'arms, "appeared" says that both seeds of the first are above both of the second.'
)


def write_verdict(found: Results) -> str:
    """The verdict as markdown."""
    lines = ["# study_scaling: verdict", "", found.account(), ""]
    if "samples" in found.data:
        lines += ["The records are of the package's few drawings, too few to judge anything by.", ""]
    pooled, by_size = curves(found), curves(found, sizes=True)
    lines += ["## Generation and the paper's crossing", "", PAPER, ""]
    lines += [*scale_verdict(pooled), "", "## Curves over the compute, both sizes in one", ""]
    for shown in pooled:
        lines += [*_metric(shown), ""]
    lines += ["## One curve a size, as in the paper's figure", ""]
    for shown in by_size:
        if shown.metric in (KERNEL, PROBE):
            lines += [*_metric(shown), ""]
    lines += ["## Data, at equal samples seen (size s)", "", *_data(found), ""]
    lines += ["## A deeper decoder at the smallest budget (size s; section 4.4)", "", *_decoder(found), ""]
    return "\n".join([*lines, CAVEAT]) + "\n"


def scale_verdict(pooled: Sequence[Shown]) -> Iterator[str]:
    """Whether the proxy's distance agrees with the paper's figure at this compute."""
    shown = next((each for each in pooled if each.metric == KERNEL), None)
    if shown is None or not shown.crossings:
        yield "Open: the proxy's distance is not known at two budgets of both families."
        return
    runs = [series.curve.line.runs for series in shown.series if series.curve is not None]
    if min(runs) < CHAINS:
        yield f"Provisional: {min(runs)} of {CHAINS} training runs of a family are there."
        yield ""
    (first, second, found), reach = shown.crossings[0], max(x for s in shown.series for x, _ in s.points)
    yield (
        f"The largest run here takes {reach:.2g} forward FLOPs, {1e19 / reach:,.0f} times less than the "
        "paper's crossing."
    )
    yield ""
    names = {1: first, -1: second}
    low, high = (names.get(end) for end in found.ends)
    if low == high == AE:
        yield (
            "By the fitted curves AE is ahead over the whole range measured here. That agrees with the "
            "paper's figure, in which AE is ahead at so little compute; it is no evidence against the "
            "paper's claim."
        )
    elif low is not None and low == high:
        yield (
            f"By the fitted curves {low} is ahead over the whole range measured here. The paper's figure has "
            "AE ahead at so little compute; the order that it has at large compute shows here already."
        )
    elif low == AE and high is not None:
        yield (
            "By the fitted curves AE is ahead at the least compute that both families have here and "
            f"{high} at the greatest. The paper's figure has this order too, but with the crossing at far "
            "more compute."
        )
    else:
        told = [f"{end} is ahead" if end else "neither family is ahead beyond noise" for end in (low, high)]
        yield (
            f"By the fitted curves {told[0]} at the least compute that both families have here, and "
            f"{told[1]} at the greatest. The paper's figure has AE ahead at so little compute."
        )
    yield ""
    yield f"{first} and {second}: {describe_crossing(first, second, found)}."
    if found.x is not None and not found.inside:
        yield "A crossing outside the range that was measured is an extrapolation, not a finding."
    for note in shown.notes:
        yield f"Note: {note}."


def _metric(shown: Shown) -> Iterator[str]:
    direction = "more" if shown.higher_is_better else "less"
    model = MODELS[shown.model].format(y=shown.metric)
    yield f"{shown.title} ({direction} is better), {shown.model}: {model}."
    yield ""
    for series in shown.series:
        yield f"- {series.name}: {describe_curve(series, shown)}"
    for first, second, found in shown.crossings:
        yield f"- {first} and {second}: {describe_crossing(first, second, found)}"
    for note in shown.notes:
        yield f"- note: {note}"


def data_arm(family: str, images: str, steps: str = "steps960") -> str:
    """The arm of a family on so many images; all of them are the main grid's."""
    return f"{family}_s_{steps}" if images == DATA[-1] else f"{family}_images{images}_{steps}"


def _steps(found: Results, part: str) -> str:
    """How the names of a grid's arms say their steps, of which tiny ones have fewer."""
    return next(arm.name for arm in found.arms if f"_{part}_" in arm.name).rpartition("_")[2]


def _data(found: Results) -> Iterator[str]:
    steps = _steps(found, f"images{DATA[0]}")
    arms = {family: [data_arm(family, images, steps) for images in DATA] for family in FAMILIES}
    for metric in METRICS:
        if any(found.values(arm, metric) for names in arms.values() for arm in names):
            yield f"- {TITLES[metric]}, 500, 5,000 and 30,000 images:"
            for family, title in FAMILIES.items():
                values = (spread(found.values(arm, metric), _digits(metric)) for arm in arms[family])
                yield f"  - {title}: {'; '.join(values)}"
    yield "- The probe is higher with all images than with 500:"
    for family in FAMILIES:
        yield f"  - {describe(Claim(arms[family][-1], arms[family][0], PROBE), found)}"
    yield "- The kernel distance is larger with 500 images than with all:"
    for family in FAMILIES:
        yield f"  - {describe(Claim(arms[family][0], arms[family][-1], KERNEL), found, 4)}"


def _decoder(found: Results) -> Iterator[str]:
    steps = _steps(found, "decoder12")
    for metric in METRICS:
        if any(found.values(f"{family}_decoder12_{steps}", metric) for family in FAMILIES):
            yield f"- {TITLES[metric]}, 4 and 12 blocks:"
            for family, title in FAMILIES.items():
                values = (
                    spread(found.values(arm, metric), _digits(metric))
                    for arm in (f"{family}_s_{steps}", f"{family}_decoder12_{steps}")
                )
                yield f"  - {title}: {'; '.join(values)}"
    yield "- PSNR is higher with 12 blocks than with 4:"
    for family in FAMILIES:
        claim = Claim(f"{family}_decoder12_{steps}", f"{family}_s_{steps}", "psnr")
        yield f"  - {describe(claim, found, 2)}"
    yield "- The kernel distance is larger with 4 blocks than with 12:"
    for family in FAMILIES:
        claim = Claim(f"{family}_s_{steps}", f"{family}_decoder12_{steps}", KERNEL)
        yield f"  - {describe(claim, found, 4)}"


def _digits(metric: str) -> int:
    return {"psnr": 2, "probe_gen_frechet": 1}.get(metric, 4)
