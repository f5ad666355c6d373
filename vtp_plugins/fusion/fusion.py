"""Fuses the layers of an encoder into named branches.

Sources: DINO-Tok (arXiv 2511.20565), deep features beside reduced shallow ones; which layer and how it is
reduced is our reading. RAEv2 (arXiv 2605.18324), the mean of normed layers. SVG, a trained encoder beside a
frozen one. FuseReg, random subsets of layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp_core.features import Tokens
from vtp_core.math.row_noise import row_rand
from vtp_core.parameters import Dims
from vtp_plugins.fusion.config import FusionConfig


class Fusion(nn.Module):
    """Branches of a latent, from the tokens of one crop set.

    Attributes:
        layers: Blocks that it taps.
        branches: Branch -> its channels, in the order of the latent.
    """

    def __init__(self, config: FusionConfig, dims: Dims) -> None:
        super().__init__()
        self.config = config
        self.layers = tuple(config.layers)
        self.reduce: nn.Linear | None = None
        match config.kind:
            case "concat":
                self.branches = {"deep": dims.width}
                if config.layers:
                    self.branches["shallow"] = config.shallow
                    self.reduce = nn.Linear(sum(dims.tap_width(k) for k in config.layers), config.shallow)
            case "mean":
                self.branches = {"fused": dims.width}
            case "residual":
                self.branches = {"deep": dims.width, "residual": dims.tap_width(config.layers[0])}
        self.reset_parameters()

    @property
    def channels(self) -> int:
        """Channels of all branches."""
        return sum(self.branches.values())

    def reset_parameters(self) -> None:
        """Truncated normal projection of standard deviation width^-0.5, bias zero."""
        if self.reduce is not None:
            nn.init.trunc_normal_(self.reduce.weight, std=self.reduce.in_features**-0.5)
            nn.init.zeros_(self.reduce.bias)

    def forward(self, tokens: Tokens, seeds: Tensor | None = None) -> dict[str, Tensor]:
        """Branch -> (B, C, N, channels).

        Args:
            tokens: Of one crop set, with the tapped layers.
            seeds: (B,) int64 seeds of the rows, for `layer_drop` in training.
        """
        taps = [self._norm(tokens.layers[layer]) for layer in self.layers]
        match self.config.kind:
            case "concat":
                branches = {"deep": tokens.patches}
                if self.reduce is not None:
                    branches["shallow"] = self.reduce(torch.cat(taps, -1)).to(tokens.patches.dtype)
                return branches
            case "mean":
                return {"fused": self._mean(tokens, taps, seeds)}
            case _:
                return {"deep": tokens.patches, "residual": tokens.layers[self.layers[0]]}

    def _norm(self, x: Tensor) -> Tensor:
        if self.config.norm == "none":
            return x
        return F.layer_norm(x.float() if x.itemsize < 4 else x, x.shape[-1:]).to(x.dtype)

    def _mean(self, tokens: Tokens, taps: list[Tensor], seeds: Tensor | None) -> Tensor:
        stacked = torch.stack(taps)
        weights = torch.full((len(taps), len(tokens.patches)), 1 / len(taps), device=stacked.device)
        if self.config.layer_drop and self.training and seeds is not None:
            drawn = row_rand(seeds, len(taps)).T
            kept = (drawn >= self.config.layer_drop) | (drawn == drawn.amax(0))
            weights = kept / kept.sum(0)
        fused = (stacked * weights.to(stacked.dtype)[..., None, None, None]).sum(0)
        if self.config.add_mean:
            fused = fused + tokens.patches.mean(2, keepdim=True)
        return fused
