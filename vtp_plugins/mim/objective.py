"""Masked image modelling with an online tokenizer (Zhou et al. 2022, iBOT), as DINOv2 and VTP train it."""

from __future__ import annotations

import torch
from torch import nn

from vtp_core.features import Losses
from vtp_core.parameters import Dims
from vtp_core.step import Step
from vtp_plugins.dino.distillation import PrototypeObjective, distil
from vtp_plugins.mim.config import MimConfig


class Mim(PrototypeObjective):
    """The student's token of a masked patch predicts the teacher's, which sees the whole crop.

    The weights of a crop's patches sum to 1, and the total is divided by the number of all global crops: with
    half of them masked the term is half the mean loss (DINOv2's scaling).
    """

    config: MimConfig

    def __init__(self, config: MimConfig, dims: Dims) -> None:
        super().__init__(config, dims, own_head=config.share_head_with is None)

    def forward(self, step: Step) -> Losses:
        """The loss; logged: the fraction of masked patches and the targets' mean entropy in nats."""
        config = self.config
        masks = step.batch(config.view).masks
        assert masks is not None
        tokens, targets = self.tokens(step, masked=True)
        head, prototypes = self._head(step)
        crops = masks.mask.shape[0] * masks.mask.shape[1]
        distilled = distil(
            step,
            config,
            head,
            prototypes,
            tokens["global"].patches[masks.mask].unsqueeze(1),
            targets["global"].patches[masks.mask].unsqueeze(1),
            mixture=torch.ones(1, 1, device=masks.mask.device),
            weights=masks.weight[masks.mask].unsqueeze(1) / crops,
            center=self.centre,
        )
        report = {
            "masked": masks.mask.double().mean(),
            "target_entropy": step.mean(distilled.entropy),
        }
        return Losses(terms={"distillation": distilled.total}, report=report, tally=distilled.tally)

    def _head(self, step: Step) -> tuple[nn.Module, nn.Module]:
        owner = self.config.share_head_with
        if owner is None:
            return self.head, self.prototypes
        return step.shared(f"{owner}.head"), step.shared(f"{owner}.prototypes")
