"""What each branch holds, said from the records alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.study.results import Results
from benchmarks.study_branches.arms import CHANNELS, ENCODERS, LEVELS, SETS, name_of
from benchmarks.study_branches.difference import INTERVAL, difference

PSNR, PROBE, COLOUR, TEXTURE, DEEP, PIXELS = (
    "psnr", "probe", "colour_shift", "texture", "deep_r2", "pixel_r2"
)  # fmt: skip
DIGITS = {PSNR: 2, PROBE: 3, COLOUR: 2, TEXTURE: 3, DEEP: 3, PIXELS: 3}

CAVEAT = (
    "The encoders are stand-ins: VTP-Nano was trained on drawings such as those of one of the two sets, with "
    "reconstruction among its objectives; EfficientNet-Lite0 with labels, and it is no transformer. Neither "
    "is a DINO. The decoder is linear, images are of 32 and 64 pixels: agreement is no proof of the paper's "
    "claims, and disagreement no refutation."
)


@dataclass(frozen=True)
class Question:
    """A comparison of two latents in one metric.

    Attributes:
        about: What is claimed.
        above: Level and kind of the latent of which more is claimed.
        below: Those of the other.
        metric: The metric.
    """

    about: str
    above: tuple[str, str]
    below: tuple[str, str]
    metric: str


def complete(level: str) -> tuple[Question, ...]:
    """The questions of "information-complete"."""
    both = (level, "concat")
    return (
        Question("both branches decode better than deep alone", both, (level, "deep"), PSNR),
        Question("both branches decode better than shallow alone", both, (level, "shallow"), PSNR),
        Question("both branches are better understood than shallow alone", both, (level, "shallow"), PROBE),
        Question("deep alone is better understood than both branches", (level, "deep"), both, PROBE),
        Question("both give deep features back better than shallow alone", both, (level, "shallow"), DEEP),
    )  # fmt: skip


LOSSES = (
    Question("deep alone shifts colours more than both", ("own", "deep"), ("own", "concat"), COLOUR),
    Question("both keep more texture than deep alone", ("own", "concat"), ("own", "deep"), TEXTURE),
    Question("quantised, deep alone shifts colours more", ("bits", "deep"), ("channels", "deep"), COLOUR),
    Question("quantised, deep alone keeps less texture", ("channels", "deep"), ("bits", "deep"), TEXTURE),
)
FUSIONS = tuple(
    Question(f"{first} above {second}, {LEVELS[level][0]}", (level, first), (level, second), metric)
    for level in ("channels", "bits")
    for first, second in (
        ("concat", "mean"),
        ("mean", "deep"),
        ("layer_drop", "mean"),
        ("residual", "concat"),
        ("residual", "deep"),
    )
    for metric in (PSNR, PROBE)
)
BOOKS = tuple(
    Question("a codebook a branch against one for both", ("bits", "concat_two"), ("bits", "concat"), metric)
    for metric in (PSNR, PROBE)
)


def write_verdict(found: Results) -> str:
    """The verdict as markdown."""
    lines = ["# study_branches: verdict", "", found.account(), ""]
    if found.data == ["samples"]:
        lines += ["All records are of the package's drawings: `--data` was not given.", ""]
    lines += [
        f"Differences of the first arm to the second with intervals ({INTERVAL:g} standard errors, by "
        "bootstrap over held-out images, the same draws for both): `yes` above 0, `no` below, else `open`.",
        "",
    ]
    for level, (title, _) in LEVELS.items():
        lines += _section(
            found, f"Do both branches together hold what each holds? ({title})", complete(level)
        )
    lines += _section(found, "What do deep features lose?", LOSSES)
    lines += _section(found, "Ways to fuse, in equal room", FUSIONS)
    lines += _section(found, f"Codebooks, {CHANNELS} channels and equal bits", BOOKS)
    return "\n".join([*lines, CAVEAT]) + "\n"


def _section(found: Results, title: str, questions: Sequence[Question]) -> list[str]:
    lines = [f"## {title}", "", "| claim | metric | encoder | images | | difference |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for question in questions:
        for encoder in ENCODERS:
            for images in SETS:
                above, below = (
                    name_of(encoder, images, level, kind) for level, kind in (question.above, question.below)
                )
                if above not in found.records or below not in found.records:
                    continue
                seen = difference(found, above, below, question.metric)
                answer = "–" if seen is None else {1: "yes", -1: "no", 0: "open"}[seen.sure]
                text = "–" if seen is None else seen.text(DIGITS[question.metric])
                cells = (question.about, question.metric, encoder, images, answer, text)
                lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]
