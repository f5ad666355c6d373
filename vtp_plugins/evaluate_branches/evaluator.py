"""What each branch of a latent adds to the reconstruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.intervals import score_of
from vtp_core.evaluation.protocol import Metric, Score
from vtp_core.features import Tally
from vtp_core.pixels import to_uint8
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_branches.config import BranchesConfig
from vtp_plugins.evaluate_reconstruction.color import mean_color
from vtp_plugins.evaluate_reconstruction.metric import IDENTICAL_DB, psnr


class Branches(Evaluator):
    """PSNR of reconstructions in which one branch is replaced by its mean over the image's positions.

    What is lost is what only that branch holds of the places in the image, as the decoder was trained. The
    baseline replaces each image by its own mean colour.
    """

    requires = frozenset({"encode", "decode", "branches"})
    config: BranchesConfig

    def __init__(self, config: BranchesConfig) -> None:
        super().__init__(config)
        self._widths: Mapping[str, int] = {}
        self._scores: list[Tensor] = []

    @property
    def protocol(self) -> str:
        """Name, version and settings."""
        return (
            "branches-v1 (mode latent, a branch replaced by its mean over positions, float32, 8 bit by clamp "
            "and round, mean of images)"
        )

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """`psnr_without_<branch>`."""
        return {
            f"psnr_without_{name}": Metric(
                title=f"PSNR, branch {name} replaced by its mean",
                unit="dB",
                digits=2,
                low=0,
                high=IDENTICAL_DB,
            )
            for name in self._widths
        }

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        """Clears the collected numbers."""
        self._widths, self._scores = dict(model.bottleneck.branch_channels), []

    def update(self, seen: Observation) -> None:
        """Adds a held-out batch."""
        image, latent = seen.image, seen.encoded.latent
        parts = latent.split(list(self._widths.values()), 1)
        scores = [psnr(seen.reconstruction, image), psnr(mean_color(image), image)]
        for number in range(len(parts)):
            kept = list(parts)
            kept[number] = parts[number].mean((2, 3), keepdim=True).expand_as(parts[number])
            output = to_uint8(seen.model.decode(torch.cat(kept, 1)).sample, "imagenet")
            scores.append(psnr(output, image))
        self._scores.append(torch.stack(scores, 1).cpu())

    def state(self) -> Tally:
        """PSNR of each image: whole, of its mean colour, without each branch."""
        empty = torch.zeros(0, 2 + len(self._widths), dtype=torch.float64)
        return Tally(rows={"scores": torch.cat([empty, *self._scores])})

    def compute(self, state: Tally) -> Mapping[str, Score]:
        """`psnr_without_<branch>`, and how much less that is than the whole latent gives."""
        whole, flat, *without = state.rows["scores"].unbind(1)
        return {
            f"psnr_without_{name}": score_of(
                values, {"mean colour": flat}, also={"lost, dB": float((whole - values).mean())}
            )
            for name, values in zip(self._widths, without, strict=True)
        }
