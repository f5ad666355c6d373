"""PSNR and SSIM of reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from vtp_core.errors import DataError
from vtp_core.evaluation.evaluator import Evaluator, Observation
from vtp_core.evaluation.protocol import Metric, Score
from vtp_core.features import Tally
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.evaluate_reconstruction.config import ReconstructionConfig
from vtp_plugins.evaluate_reconstruction.metric import WINDOW, mean_color, psnr, ssim


class Reconstruction(Evaluator):
    """PSNR and SSIM per image on 8-bit pixels, averaged over images.

    The baseline replaces each image by its own mean colour.
    """

    requires = frozenset({"encode", "decode"})
    metrics = {
        "psnr": Metric(title="PSNR", unit="dB", digits=2, baseline_name="mean colour"),
        "ssim": Metric(title="SSIM", digits=3, baseline_name="mean colour"),
    }
    config: ReconstructionConfig

    def __init__(self, config: ReconstructionConfig) -> None:
        super().__init__(config)
        self._sums = torch.zeros(5, dtype=torch.float64)

    @property
    def protocol(self) -> str:
        """Name, version and settings."""
        return "reconstruction-v1 (mode latent, float32, 8 bit by clamp and round, mean of images)"

    def begin(self, model: Tokenizer, classes: Sequence[str]) -> None:
        """Resets the sums."""
        self._sums = torch.zeros(5, dtype=torch.float64)

    def update(self, seen: Observation) -> None:
        """Adds a held-out batch."""
        image, output = seen.image, seen.reconstruction
        if min(image.shape[-2:]) < WINDOW:
            raise DataError(f"evaluator reconstruction: SSIM needs images of {WINDOW} px or more")
        flat = mean_color(image)
        scores = (psnr(output, image), ssim(output, image), psnr(flat, image), ssim(flat, image))
        sums = torch.stack([score.sum() for score in scores]).cpu()
        self._sums += torch.cat([sums, torch.tensor([len(image)], dtype=torch.float64)])

    def state(self) -> Tally:
        """Sums over images."""
        return Tally(sums={"scores": self._sums})

    def compute(self, state: Tally) -> Mapping[str, Score]:
        """`psnr` and `ssim`."""
        sums = state.sums["scores"]
        own_psnr, own_ssim, flat_psnr, flat_ssim = (sums[:4] / sums[4]).tolist()
        return {
            "psnr": Score(value=own_psnr, baseline=flat_psnr),
            "ssim": Score(value=own_ssim, baseline=flat_ssim),
        }
