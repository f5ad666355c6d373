"""Self-distillation between crops (Caron et al. 2021, DINO), as DINOv2 and VTP train it."""

from __future__ import annotations

import torch

from vtp_core.errors import UsageError
from vtp_core.features import Losses
from vtp_core.parameters import Dims
from vtp_core.step import Step
from vtp_plugins.dino.config import DinoConfig
from vtp_plugins.dino.distillation import PrototypeObjective, distil


class Dino(PrototypeObjective):
    """Class tokens of the student's crops predict the teacher's of the *other* global crops.

    The loss is the mean over all pairs of a student crop and a teacher crop that is not the same view, the
    scaling of DINOv2.
    """

    config: DinoConfig

    def __init__(self, config: DinoConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        if not dims.has_cls:
            raise UsageError("dino: the encoder has no class token, which this objective compares")

    def forward(self, step: Step) -> Losses:
        """The loss; logged: its global and local parts, and the targets' mean entropy in nats."""
        config = self.config
        tokens, targets = self.tokens(step, masked=config.masked)
        crops = [tokens[name].cls for name in ("global", *config.local_crops)]
        teacher = targets["global"].cls
        student = torch.cat([crop for crop in crops if crop is not None], 1)
        assert teacher is not None
        samples, own = teacher.shape[:2]
        mixture = 1 - torch.eye(student.shape[1], own, dtype=torch.float32, device=teacher.device)
        pairs = int(mixture.sum())
        if not pairs:
            raise UsageError(
                f"dino: view {config.view!r} has a single crop and no other to compare with; "
                f"set views.{config.view}.crops.global.count = 2"
            )
        scale = 1 / (samples * pairs)
        distilled = distil(
            step,
            config,
            self.head,
            self.prototypes,
            student,
            teacher,
            mixture=mixture,
            weights=torch.full(student.shape[:2], scale, device=teacher.device, dtype=torch.float64),
            center=self.centre,
        )
        losses = distilled.losses
        report = {
            "global": losses[:, :own].sum() * scale,
            "local": losses[:, own:].sum() * scale,
            "target_entropy": step.mean(distilled.entropy),
        }
        return Losses(terms={"distillation": distilled.total}, report=report, tally=distilled.tally)
