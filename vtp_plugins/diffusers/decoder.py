"""The `diffusers` decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vtp_core.decoder import Decoder
from vtp_core.errors import UsageError
from vtp_core.parameters import Dims
from vtp_core.tokenizer.checks import place_of
from vtp_plugins.diffusers.config import DiffusersDecoderConfig
from vtp_plugins.diffusers.network import build, half_of


class DiffusersDecoder(Decoder):
    """The decoding half of an autoencoder of diffusers; latents of AutoencoderKLFlux2 are unpacked first.

    Raises:
        UsageError: Another patch or other latent channels than the encoder's.
    """

    model: Any

    def __init__(self, config: DiffusersDecoderConfig, dims: Dims) -> None:
        super().__init__()
        self.config, self.layout = config, config.layout
        own, given = (self.layout.patch, self.layout.channels), (dims.patch, dims.channels)
        if own != given:
            raise UsageError(
                f"diffusers: the decoder of {self.layout.name} makes {own[0]} pixels of {own[1]} channels, "
                f"the latent has {given[1]} for {given[0]} pixels"
            )
        self.value_range = self.layout.span
        self.model = half_of(build(config), "decode")

    def blocks(self) -> Sequence[nn.Module]:
        """The whole decoder as one unit."""
        return [self.model.decoder]

    def last_layer(self) -> nn.Module:
        """The convolution to three channels; of AutoencoderRAE, the linear layer to pixels."""
        decoder = self.model.decoder
        for name in ("conv_out", "decoder_pred"):
            if hasattr(decoder, name):
                return getattr(decoder, name)
        return decoder.layers[-1]

    def forward(self, z: Tensor) -> Tensor:
        """(B, d, h, w) to (B, 3, h * patch, w * patch) in `value_range`, unclamped."""
        if self.layout.side is not None and z.shape[-2:] != (self.layout.side // self.layout.patch,) * 2:
            raise UsageError(
                f"diffusers: {self.layout.name} makes {self.layout.side} x {self.layout.side} pixels only"
            )
        if self.layout.pack > 1:
            z = F.pixel_shuffle(z, self.layout.pack)
        # VQModel quantises again unless told otherwise.
        options = {"force_not_quantize": True} if self.layout.latent == "codes" else {}
        image: Tensor = self.model.decode(z, **options).sample
        return image.to(place_of(self)[1])
