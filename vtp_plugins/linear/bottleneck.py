"""The `linear` bottleneck."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp_core.bottleneck import Bottleneck
from vtp_core.features import Features, Latent, Tokens
from vtp_core.parameters import Dims
from vtp_plugins.linear.config import LinearConfig


class LinearBottleneck(Bottleneck):
    """One bias-free projection D -> d of class token and patches (arXiv 2512.13687, section 3)."""

    def __init__(self, config: LinearConfig, dims: Dims) -> None:
        super().__init__()
        self.channels, self.norm = config.channels, config.norm
        same = config.channels == dims.width
        self.proj = None if same else nn.Linear(dims.width, config.channels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal weight, standard deviation 0.02."""
        if self.proj is not None:
            nn.init.trunc_normal_(self.proj.weight, std=0.02)

    def forward(self, features: Features) -> Latent:
        """Latent tokens of every crop set; tapped layers are ignored."""
        return Latent(
            crops={
                name: Tokens(
                    patches=self._project(tokens.patches),
                    grid=tokens.grid,
                    cls=None if tokens.cls is None else self._project(tokens.cls),
                )
                for name, tokens in features.crops.items()
            }
        )

    def _project(self, x: Tensor) -> Tensor:
        """(..., D) to (..., d) in the dtype of the parameters, under autocast too."""
        z = x if self.proj is None else self.proj(x).to(self.proj.weight.dtype)
        if self.norm == "none":
            return z
        with torch.autocast(z.device.type, enabled=False):
            z = z.float() if z.itemsize < 4 else z
            length = self.channels**0.5 if self.norm == "rms" else 1.0
            return F.normalize(z, dim=-1) * length
