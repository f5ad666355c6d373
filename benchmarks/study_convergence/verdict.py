"""Whether generation converges faster on jointly trained latents, by the records alone."""

from __future__ import annotations

from benchmarks.study.results import Results
from benchmarks.study_convergence.arms import AE, DISTILLED, JOINT
from benchmarks.study_convergence.speed import finding, speeds
from vtp_plugins.probe_gen.ranking import Reached

CLAIM = (
    "The paper: a diffusion transformer reaches on VTP's latents the distance of VA-VAE's in 4.1 times fewer "
    "steps. Here: steps of a small transformer to a kernel distance that it reaches on all latents."
)
CAVEAT = (
    "32-pixel images, tokenizers of 800 steps, a generator of 1,000: agreement is no proof of the paper's "
    "claim, and disagreement no refutation. The vision model of the alignment, EfficientNet-Lite0, is also "
    "the network of the distance, which favours the distilled latents if anything. A kernel distance says "
    "how good decoded samples are, so a decoder that loses detail counts against its latents."
)


def write_verdict(found: Results) -> str:
    """The verdict as markdown."""
    lines = ["# study_convergence: verdict", "", found.account(), "", CLAIM, ""]
    if "samples" in found.data:
        lines += ["The records are of the package's few drawings, too few to judge anything by.", ""]
    measured = speeds(found)
    if not measured:
        return "\n".join([*lines, "No seed has the curves of all arms.", "", CAVEAT]) + "\n"
    lines += [
        f"| seed | kernel distance | {AE} | {DISTILLED} | {JOINT} |",
        "| --- | --- | --- | --- | --- |",
    ]
    for seed in measured:
        steps = " | ".join(_shown(seed.steps[arm]) for arm in (AE, DISTILLED, JOINT))
        lines.append(f"| {seed.seed} | {seed.level:.4f} | {steps} |")
    lines.append("")
    for slow, fast in ((DISTILLED, JOINT), (AE, JOINT), (AE, DISTILLED)):
        ratios = [seed.ratio(slow, fast) for seed in measured]
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        lines.append(
            f"- steps on {slow} over steps on {fast}, by seed: {shown}; more than 1: {finding(ratios)}"
        )
    return "\n".join([*lines, "", CAVEAT]) + "\n"


def _shown(reached: Reached) -> str:
    return f"{'at most ' if reached.at_most else ''}{reached.steps:.0f} steps"
