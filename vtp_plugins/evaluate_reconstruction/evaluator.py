"""PSNR and SSIM of reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vtp_core.errors import DataError
from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.intervals import score_of
from vtp_core.evaluation.protocol import Metric, Score
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_reconstruction.config import ReconstructionConfig
from vtp_plugins.evaluate_reconstruction.metric import WINDOW, mean_color, psnr, ssim

MEAN_COLOR = "mean colour"


class Reconstruction(Evaluator):
    """PSNR and SSIM per image on 8-bit pixels, averaged over images.

    The baseline replaces each image by its own mean colour.
    """

    requires = frozenset({"encode", "decode"})
    metrics = {
        "psnr": Metric(title="PSNR", unit="dB", digits=2),
        "ssim": Metric(title="SSIM", digits=3),
    }
    config: ReconstructionConfig

    def __init__(self, config: ReconstructionConfig) -> None:
        super().__init__(config)
        self._scores: list[Tensor] = []

    @property
    def protocol(self) -> str:
        """Name, version and settings."""
        return "reconstruction-v1 (mode latent, float32, 8 bit by clamp and round, mean of images)"

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        """Clears the collected numbers."""
        self._scores = []

    def update(self, seen: Observation) -> None:
        """Adds a held-out batch."""
        image, output = seen.image, seen.reconstruction
        if min(image.shape[-2:]) < WINDOW:
            raise DataError(f"evaluator reconstruction: SSIM needs images of {WINDOW} px or more")
        flat = mean_color(image)
        scores = (psnr(output, image), ssim(output, image), psnr(flat, image), ssim(flat, image))
        self._scores.append(torch.stack(scores, 1).cpu())

    def state(self) -> Tally:
        """PSNR and SSIM of each image, and those of its mean colour."""
        return Tally(rows={"scores": torch.cat([torch.zeros(0, 4, dtype=torch.float64), *self._scores])})

    def compute(self, state: Tally) -> Mapping[str, Score]:
        """`psnr` and `ssim`."""
        own_psnr, own_ssim, flat_psnr, flat_ssim = state.rows["scores"].unbind(1)
        return {
            "psnr": score_of(own_psnr, {MEAN_COLOR: flat_psnr}),
            "ssim": score_of(own_ssim, {MEAN_COLOR: flat_ssim}),
        }
