"""Distances of reconstructions to originals."""

from __future__ import annotations

import torch

from vtp_core.evaluation.evaluator import Observation
from vtp_core.evaluation.jackknife import key_hashes
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_plugins.evaluate_frechet.comparison import Compared, FeatureDistances

MEAN_COLOR = "mean colour"


class Frechet(FeatureDistances):
    """Fréchet distance, kernel distance, precision and recall of all reconstructions and all images.

    It is not FID, which is the Fréchet distance on one particular network. The baseline replaces each image
    by its own mean colour.
    """

    requires = frozenset({"encode", "decode"})
    compared = Compared(made="reconstruction", reference="image", trivial=[MEAN_COLOR], paired=True)

    @property
    def least_samples(self) -> int:
        """Number of features + 1; with fewer samples the covariance is always singular."""
        return self.least

    def why_not(self, held_out: EvaluationSet | None, train: EvaluationSet | None) -> str | None:
        """Too many images to compare pairs."""
        assert held_out is not None
        return self.too_many({held_out.name: len(held_out.indices())})

    def update(self, seen: Observation) -> None:
        """Adds a held-out batch."""
        flat = seen.image.double().mean((2, 3), keepdim=True).round().to(torch.uint8)
        shown = {
            "image": seen.image,
            "reconstruction": seen.reconstruction,
            MEAN_COLOR: flat.expand_as(seen.image),
        }
        for name, image in shown.items():
            self.sets.add(name, image, key_hashes(seen.batch.keys), seen.batch.keys)
