"""Whether a transformer's decoder and an adversarial loss fit badly, said from the records alone."""

from __future__ import annotations

from benchmarks.study.claim import Claim, describe
from benchmarks.study.results import Results, spread

ARMS = ("no_gan", "gan_always", "two_stages")
PSNR = "psnr"
PERCEPTUAL = ("perceptual", "squeeze.perceptual")
FRECHET = ("frechet", "squeeze.frechet")
"""On the network that critics read, and on that of every arm's perceptual loss."""
MEDIAN, HIGH, TAIL = "gradient_median", "gradient_p99", "gradient_tail"
LATE_MEDIAN, LATE_HIGH, LATE_TAIL = (f"late_{name}" for name in (MEDIAN, HIGH, TAIL))
NORMS = (
    ("median", MEDIAN),
    ("p99", HIGH),
    ("p99 / median", TAIL),
    ("median, last 100 steps", LATE_MEDIAN),
    ("p99, last 100 steps", LATE_HIGH),
    ("p99 / median, last 100 steps", LATE_TAIL),
)
ACCURACY, WEIGHT = "critic_accuracy", "d_weight"

CAVEAT = (
    "EfficientNet's features are the critic's too, which favours the arms that have one; SqueezeNet's are "
    "those of the perceptual loss, which all arms train on. 32-pixel images, small networks, few steps, one "
    "critic: agreement is no proof of the paper's remark that transformers and adversarial losses fit badly, "
    "and disagreement no refutation."
)


def write_verdict(found: Results) -> str:
    """The verdict as markdown."""
    lines = ["# study_gan_stage: verdict", "", found.account(), ""]
    if "samples" in found.data:
        lines += ["The records are of the package's few drawings, too few to judge anything by.", ""]
    lines += ["## Was there a critic to learn from?", ""]
    lines += [
        "Share of its judgements that are right (0.5: it sees no difference), and the adaptive weight:",
        "",
    ]
    lines += [
        f"- {name}: {spread(found.values(name, ACCURACY))}, {spread(found.values(name, WEIGHT))}"
        for name in ARMS[1:]
    ]
    lines += ["", "## Does the adversarial loss make the decoder's gradients wilder?", ""]
    lines += _gradients(
        found, "Norms without the first tenth of the run, or of its second stage:", MEDIAN, HIGH
    )
    lines += ["", *_gradients(found, "Norms over the last 100 steps:", LATE_MEDIAN, LATE_HIGH)]
    lines += [
        "",
        "Claimed is that the first is larger; a second stage is compared over the last steps alone:",
        "",
    ]
    for title, metric in NORMS:
        others = ("no_gan", "two_stages") if metric.startswith("late") else ("no_gan",)
        pairs = tuple(("gan_always", other) for other in others)
        lines += [f"- {title}: {line[2:]}" for line in _claims(found, pairs, metric, 2)]
    lines += ["", "## What it does to the images", "", "PSNR in dB, more is better:", ""]
    lines += _claims(found, (("no_gan", "gan_always"), ("two_stages", "gan_always")), PSNR, 2)
    for title, metrics, digits in (("Perceptual", PERCEPTUAL, 3), ("Fréchet", FRECHET, 1)):
        for network, metric in zip(("EfficientNet", "SqueezeNet"), metrics, strict=True):
            lines += [
                "",
                f"{title} distance, {network}; less is better, claimed is that the first has more:",
                "",
            ]
            worse = (("no_gan", "two_stages"), ("gan_always", "two_stages"), ("no_gan", "gan_always"))
            lines += _claims(found, worse, metric, digits)
    return "\n".join([*lines, "", CAVEAT]) + "\n"


def _gradients(found: Results, title: str, median: str, high: str) -> list[str]:
    return [title, ""] + [
        f"- {name}: median {spread(found.values(name, median), 2)}, p99 {spread(found.values(name, high), 2)}"
        for name in ARMS
    ]


def _claims(found: Results, pairs: tuple[tuple[str, str], ...], metric: str, digits: int) -> list[str]:
    return [f"- {describe(Claim(above, below, metric), found, digits)}" for above, below in pairs]
