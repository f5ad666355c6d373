"""A plugin of one file, the encoder `enlarged.timm`: a convolutional network of timm on enlarged images.

At 32 pixels such a network has too few positions to compare latents of 8 x 8 with.
``vtp run --plugin benchmarks/study_convergence/enlarged.py`` loads it.
"""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

import vtp_core as vtp
from vtp_core.encoder import Encoder
from vtp_core.features import Tokens
from vtp_plugins.timm.config import TimmConfig
from vtp_plugins.timm.encoder import TimmEncoder

vtp_api = 2


class EnlargedConfig(TimmConfig):
    """A table with ``use = "enlarged.timm"``: as of `timm`, `patch` at the network's scale."""

    use: str = "enlarged.timm"
    """This encoder."""
    factor: Annotated[int, Field(gt=0)]
    """Times that images are enlarged."""


class Enlarged(Encoder):
    """The network behind a bicubic enlargement; its patch is that of the images as they come."""

    has_cls = False

    def __init__(self, config: EnlargedConfig) -> None:
        super().__init__()
        self.config = config
        self.network = TimmEncoder(config)
        self.width, self.depth = self.network.width, self.network.depth
        self.tap_widths = self.network.tap_widths
        self.patch = self.network.patch // config.factor

    def notices(self) -> list[str]:
        """Those of the network."""
        return list(self.network.notices())

    def forward(
        self,
        images: list[Tensor],
        masks: list[Tensor | None],
        *,
        layers: tuple[int, ...] = (),
        drop_path: float = 0.0,
    ) -> list[Tokens]:
        """See `vtp_core.encoder.Encoder.forward`."""
        return self.network(
            [self._enlarged(each) for each in images], masks, layers=layers, drop_path=drop_path
        )

    def _enlarged(self, images: Tensor) -> Tensor:
        """Crops (B, C, 3, H, W) at `factor` times the size."""
        flat = F.interpolate(
            images.flatten(0, 1), scale_factor=self.config.factor, mode="bicubic", align_corners=False
        )
        return flat.unflatten(0, images.shape[:2])


@vtp.hookimpl
def register_encoders(register: vtp.Register) -> None:
    """Offers `enlarged.timm`."""
    register("timm", Enlarged, config=EnlargedConfig, summary="A CNN of timm on enlarged images.")
