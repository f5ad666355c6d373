"""The `kl` bottleneck."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vtp_core.bottleneck import Bottleneck
from vtp_core.features import Features, Latent, Tokens
from vtp_core.math.row_noise import row_randn
from vtp_core.parameters import Dims
from vtp_plugins.kl.config import KlConfig
from vtp_plugins.kl.loss import kl_to_standard_normal

LOGVAR_RANGE = (-30.0, 20.0)
"""Bounds of the log variance, as in latent diffusion (Rombach et al., 2022)."""


class KlBottleneck(Bottleneck):
    """Projects each patch to mean and log variance; training takes a sample, evaluation the mean.

    The KL term ("kl" of `Latent.aux`) is summed over patches and channels and averaged over the images of all
    crop sets. The class token is not part of the latent map: it is projected to the mean, without KL term.
    Moments and noise are float32 or wider, under autocast too.
    """

    def __init__(self, config: KlConfig, dims: Dims) -> None:
        super().__init__()
        self.channels = config.channels
        self.weight = config.weight
        self.moments = nn.Linear(dims.width, 2 * config.channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal weight of standard deviation 0.02, bias zero."""
        nn.init.trunc_normal_(self.moments.weight, std=0.02)
        nn.init.zeros_(self.moments.bias)

    def forward(self, features: Features) -> Latent:
        """Latent tokens of every crop set; training samples them, by row in a training step."""
        crops, logvars, divergences = {}, {}, []
        for draw, (name, tokens) in enumerate(features.crops.items()):
            mean, logvar = self._moments(tokens.patches)
            patches = mean
            if self.training:
                patches = mean + (0.5 * logvar).exp() * _noise(mean, features.seeds, draw)
            cls = None if tokens.cls is None else self._moments(tokens.cls)[0]
            crops[name] = Tokens(patches=patches, grid=tokens.grid, cls=cls)
            logvars[name] = logvar
            divergences.append(kl_to_standard_normal(mean, logvar).sum((-1, -2)).flatten())
        kl = torch.cat(divergences).mean()
        return Latent(
            crops=crops,
            aux={"kl": self.weight * kl},
            report={
                "kl_nats": kl.detach(),
                "logvar": torch.cat([logvar.detach().flatten() for logvar in logvars.values()]).mean(),
            },
            logvar=logvars,
        )

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of (..., D), each (..., d)."""
        y: Tensor = self.moments(x)
        if y.dtype in (torch.bfloat16, torch.float16):
            y = y.float()
        mean, logvar = y.chunk(2, dim=-1)
        # A copy: a sharded module must not return views of one tensor.
        return mean.clone(), logvar.clamp(*LOGVAR_RANGE)


def _noise(mean: Tensor, seeds: Tensor | None, draw: int) -> Tensor:
    if seeds is None:
        return torch.randn_like(mean)
    return row_randn(seeds, *mean.shape[1:], draw=draw, dtype=mean.dtype)
