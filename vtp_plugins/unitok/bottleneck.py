"""The `unitok` bottleneck."""

from __future__ import annotations

from torch import Tensor

from vtp_core.errors import UsageError
from vtp_core.parameters import Dims
from vtp_plugins.unitok.config import UniTokBottleneckConfig
from vtp_plugins.unitok.layers import Projection
from vtp_plugins.vit.block import initialize
from vtp_plugins.vq.bottleneck import VqBottleneck


class UniTokBottleneck(VqBottleneck):
    """`vq` with an attention projection in place of its linear layer: codebooks of consecutive channels."""

    config: UniTokBottleneckConfig

    def __init__(self, config: UniTokBottleneckConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.project = None
        try:
            self.quant_proj = Projection(dims.width, config.channels)
        except ValueError as error:
            raise UsageError(f"bottleneck: {error}") from None
        self.quant_proj.apply(initialize)

    def _latent(self, patches: Tensor) -> Tensor:
        """(B, C, N, D) to (B, C, N, d); the tokens of a crop see each other."""
        crops = patches.flatten(0, 1)
        projected: Tensor = self.quant_proj(crops)
        return projected.unflatten(0, patches.shape[:2])
