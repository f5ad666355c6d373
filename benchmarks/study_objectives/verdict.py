"""Whether the ordering of the VTP paper appeared, said from the records alone."""

from __future__ import annotations

import math
from collections.abc import Iterable

from benchmarks.study.claim import Claim, Finding, describe, judge
from benchmarks.study.results import Results, spread
from benchmarks.study_objectives.arms import LARGE, MAIN, OTHER_WEIGHTS, PAPER_WEIGHT, SMALL

LATENTS = "linear_probe"
FEATURES = "features.linear_probe"
ZERO_SHOT = "zero_shot"
PSNR = "psnr"
ENTROPY = "report/dino/target_entropy"
UNIFORM = math.log(512)
"""Entropy of a uniform target over the recipes' prototypes, in nats."""

PAIRS = (("clip_ae", "ae"), ("ssl_ae", "ae"), ("clip_ssl_ae", "clip_ae"), ("clip_ssl_ae", "ssl_ae"))
"""The paper's ordering of what latents understand: each first arm above the second."""

CAVEAT = (
    "32-pixel images, small networks and few steps: agreement is no proof of the paper's claim, and "
    "disagreement no refutation. Generation, which the paper measures, is not among these numbers."
)


def write_verdict(found: Results) -> str:
    """The verdict as markdown.

    Only the main arms at the small width have several seeds, so only they are judged; the rest is listed.
    """
    lines = ["# study_objectives: verdict", "", found.account(), ""]
    if "samples" in found.data:
        lines += ["The records are of the package's few drawings, too few to judge anything by.", ""]
    lines += [f"## Understanding of the latents (linear probe, d = {SMALL})", ""]
    findings, text = _claims(found, LATENTS, PAIRS)
    lines += [*text, "", summary(findings), ""]
    lines += [f"## Understanding of the encoder's features (linear probe, d = {SMALL})", ""]
    findings, text = _claims(found, FEATURES, PAIRS)
    lines += [*text, "", summary(findings), ""]
    lines += ["## Zero-shot", ""]
    _, text = _claims(found, ZERO_SHOT, (("clip_ssl_ae", "clip_ae"),))
    lines += text
    lines += ["", "## What it costs in reconstruction (PSNR in dB)", ""]
    lines += _listed(found, PSNR, [f"{name}_d{SMALL}" for name in MAIN])
    lines += ["", "## Did self-distillation learn?", ""]
    lines += _entropies(found)
    lines += ["", "## One seed each: numbers, no findings", ""]
    for title, names in (
        (f"d = {LARGE}", [f"{name}_d{LARGE}" for name in MAIN]),
        (f"lambda_rec (that of clip_ssl_ae_d{SMALL} is {PAPER_WEIGHT:g})", _weights()),
        ("bottleneck_ae_only", [f"clip_ssl_ae_d{SMALL}", "through_bottleneck"]),
    ):
        lines += [f"{title}, probe of the latents / PSNR:", ""]
        lines += [
            f"- {name}: {spread(found.values(name, LATENTS))} / {spread(found.values(name, PSNR), 2)}"
            for name in names
        ]
        lines.append("")
    return "\n".join([*lines, CAVEAT]) + "\n"


def _entropies(found: Results) -> list[str]:
    lines = [
        f"Entropy of the teacher's targets at the end; {UNIFORM:.2f} is that of uniform targets, which teach "
        "nothing, and near it an arm says nothing about self-distillation:",
        "",
    ]
    return lines + [
        f"- {name}_d{SMALL}: {spread(found.training(f'{name}_d{SMALL}', ENTROPY), 2)}"
        for name in ("ssl_ae", "clip_ssl_ae")
    ]


def _weights() -> list[str]:
    weights = sorted((*OTHER_WEIGHTS, PAPER_WEIGHT), reverse=True)
    return [f"clip_ssl_ae_d{SMALL}" if weight == PAPER_WEIGHT else f"lambda_{weight:g}" for weight in weights]


def _claims(found: Results, metric: str, pairs: Iterable[tuple[str, str]]) -> tuple[list[Finding], list[str]]:
    findings, lines = [], []
    for above, below in pairs:
        claim = Claim(f"{above}_d{SMALL}", f"{below}_d{SMALL}", metric)
        findings.append(judge(found.values(claim.above, metric), found.values(claim.below, metric)))
        lines.append(f"- {describe(claim, found)}")
    if trivial := found.baseline(metric):
        lines.append(f"- for comparison, {trivial[0]}: {spread(sorted(set(trivial[1])))}")
    return findings, lines


def _listed(found: Results, metric: str, names: list[str]) -> list[str]:
    return [f"- {name}: {spread(found.values(name, metric), 2)}" for name in names]


def summary(findings: list[Finding]) -> str:
    """What the findings of an ordering's pairs come to."""
    if "open" in findings:
        return f"Not to be judged yet: {findings.count('open')} of {len(findings)} pairs lack seeds."
    if all(finding == "appeared" for finding in findings):
        return "The paper's ordering appeared: in every pair no seed contradicts it."
    if "reversed" in findings:
        count = findings.count("reversed")
        return f"The paper's ordering did not appear: {count} pair(s) are reversed in every seed."
    if "absent" in findings:
        return "The paper's ordering did not appear in full: the means of some pairs don't follow it."
    return "The means follow the paper's ordering, but the seeds overlap: this may be chance."
