"""The KoLeo regulariser (Sablayrolles et al. 2019) on class tokens, as in DINOv2."""

from __future__ import annotations

import torch

from vtp_core.errors import UsageError
from vtp_core.features import Losses
from vtp_core.objective import Objective
from vtp_core.parameters import Dims
from vtp_core.step import Step
from vtp_plugins.koleo.config import KoleoConfig
from vtp_plugins.koleo.loss import spread, unit


class Koleo(Objective):
    """Pushes each class token away from its nearest neighbour in the same crop; crops' means are added."""

    config: KoleoConfig

    def __init__(self, config: KoleoConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        if not dims.has_cls:
            raise UsageError("koleo: the encoder has no class token, which this objective spreads")

    def forward(self, step: Step) -> Losses:
        """The term; finite for equal rows, 0 for a single row."""
        config = self.config
        source = (step.tokenize if config.bottleneck else step.encode)(config.view, masked=config.masked)
        cls = source["global"].cls
        assert cls is not None
        rows = unit(cls, config.eps)
        own = torch.arange(len(rows), device=rows.device)
        pool = rows
        if config.scope == "global":
            pool, own = step.gather(rows), own * step.world_size + step.rank
        losses = [spread(rows[:, crop], pool[:, crop], own, config.eps) for crop in range(rows.shape[1])]
        return Losses(terms={"spread": step.mean(torch.stack(losses, 1)) * len(losses)})
