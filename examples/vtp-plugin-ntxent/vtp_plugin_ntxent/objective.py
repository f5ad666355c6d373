"""SimCLR's objective: two crops of an image agree, crops of different images don't."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

import vtp_core as vtp
from vtp_plugin_ntxent.config import SimclrConfig
from vtp_plugin_ntxent.loss import nt_xent


class Simclr(vtp.Objective):
    """NT-Xent between the first crops of two crop sets, over the rows of all ranks.

    SimCLR's projection head has batch normalisation; this one has none, as it may run in row chunks.
    """

    config: SimclrConfig

    def __init__(self, config: SimclrConfig, dims: vtp.Dims) -> None:
        super().__init__(config, dims)
        if config.features == "cls" and not dims.has_cls:
            raise vtp.UsageError(f'{config.use}: this encoder has no class token; set features = "pooled"')
        self.head = nn.Sequential(
            nn.Linear(dims.width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.channels)
        )

    def forward(self, step: vtp.Step) -> vtp.Losses:
        """The loss, and by how much it is below that of equal embeddings."""
        features = step.encode(self.config.view)
        crops_BCD = torch.stack([self._pool(features[name]) for name in self.config.crops], dim=1)
        embedded_BCP = step.call(self.head, crops_BCD)
        with torch.autocast(embedded_BCP.device.type, enabled=False):
            wide = torch.promote_types(embedded_BCP.dtype, torch.float32)
            local = functional.normalize(embedded_BCP.to(wide), dim=-1)
            everyone = step.gather(local)
            # Rows are dealt round-robin: local row j of rank r is global row j * W + r.
            rows = torch.arange(len(local), device=local.device) * step.world_size + step.rank
            losses = nt_xent(local, everyone, rows, self.config.temperature)
        # Embeddings that are all equal have a loss of log(2 * rows - 1); this is how far below it we are.
        chance = torch.log(torch.tensor(2.0 * len(everyone) - 1))
        return vtp.Losses(
            terms={"nt_xent": step.mean(losses)},
            report={"below_chance": chance.to(losses.device) - step.mean(losses.detach())},
        )

    def rules(self) -> Sequence[vtp.ParamRule]:
        """No weight decay on biases, as in the paper (appendix B.9)."""
        return (vtp.ParamRule(pattern="*.bias", decay=0.0),)

    def _pool(self, tokens: vtp.Tokens) -> Tensor:
        """Features of the first crop of a set, (B, D)."""
        if self.config.features == "pooled" or tokens.cls is None:
            return tokens.patches[:, 0].mean(dim=1)
        return tokens.cls[:, 0]
