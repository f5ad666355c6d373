"""The `rae` bottleneck."""

from __future__ import annotations

import torch
from torch import Tensor

from vtp_core.bottleneck import Bottleneck
from vtp_core.errors import UsageError
from vtp_core.features import Features, Latent, Tokens
from vtp_core.parameters import Dims
from vtp_plugins.rae.config import RaeConfig


class RaeBottleneck(Bottleneck):
    """Tokens normalised by statistics of each channel at each position: (z - mean) / sqrt(var + eps).

    The class token is not part of the latent map and passes unchanged. RAE's noise is one of training.

    Attributes:
        mean: (D, g, g); None without statistics.
        var: (D, g, g).
    """

    mean: Tensor | None
    var: Tensor | None

    def __init__(self, config: RaeConfig, dims: Dims) -> None:
        super().__init__()
        self.config = config
        self.channels = dims.width
        shape = None if config.grid is None else (dims.width, config.grid, config.grid)
        self.register_buffer("mean", None if shape is None else torch.zeros(shape))
        self.register_buffer("var", None if shape is None else torch.ones(shape))

    def forward(self, features: Features) -> Latent:
        """Latent tokens of every crop set.

        Raises:
            UsageError: Another grid than the statistics'.
        """
        return Latent(
            crops={
                name: Tokens(patches=self._normalized(tokens), grid=tokens.grid, cls=tokens.cls)
                for name, tokens in features.crops.items()
            }
        )

    def _normalized(self, tokens: Tokens) -> Tensor:
        if self.mean is None or self.var is None:
            return tokens.patches
        if tokens.grid != tuple(self.mean.shape[1:]):
            own = " x ".join(map(str, self.mean.shape[1:]))
            raise UsageError(f"rae: statistics of {own} positions, tokens of {tokens.grid}; they don't fit")
        mean, std = (value.flatten(1).T for value in (self.mean, (self.var + self.config.eps).sqrt()))
        return (tokens.patches - mean) / std
