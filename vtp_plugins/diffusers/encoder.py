"""The `diffusers` encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtp_core.encoder import Encoder
from vtp_core.errors import UsageError
from vtp_core.features import Tokens
from vtp_core.pixels import convert
from vtp_core.tokenizer.checks import place_of
from vtp_plugins.diffusers.config import DiffusersEncoderConfig
from vtp_plugins.diffusers.network import build, half_of


class DiffusersEncoder(Encoder):
    """The encoding half of an autoencoder of diffusers: each position of its latent is a token.

    Tokens of a Gaussian latent are mean and log variance, as diffusers' ``latent_dist.parameters`` has them.
    Those of AutoencoderKLFlux2 are packed as its pipeline packs them: `patch_size` squared positions in the
    channels of one. No class token and no mask token.
    """

    has_cls = False
    taps = 0
    depth = 1
    model: Any

    def __init__(self, config: DiffusersEncoderConfig) -> None:
        super().__init__()
        self.config, self.layout = config, config.layout
        self.width, self.patch = self.layout.width, self.layout.patch
        if self.layout.side is not None:
            self.only_size = (self.layout.side, self.layout.side)
        self.model = half_of(build(config), "encode")

    def blocks(self) -> Sequence[nn.Module]:
        """The whole encoder as one unit."""
        return [self.model.encoder]

    def forward(
        self,
        images: list[Tensor],
        masks: list[Tensor | None],
        *,
        layers: tuple[int, ...] = (),
        drop_path: float = 0.0,
    ) -> list[Tokens]:
        """Tokens of all crop sets, one set after the other; see `vtp_core.encoder.Encoder.forward`.

        Raises:
            UsageError: A mask, a tapped block, or a size that the network doesn't take.
        """
        if layers or any(mask is not None for mask in masks):
            raise UsageError("diffusers: its encoder has neither taps nor a mask token; use the encoder vit")
        return [self._encode(image) for image in images]

    def _encode(self, image: Tensor) -> Tokens:
        """(B, C, 3, H, W) to the tokens of one crop set."""
        height, width = image.shape[-2:]
        if height % self.patch or width % self.patch:
            raise UsageError(
                f"diffusers: {height} x {width} pixels are no multiple of the patch {self.patch}"
            )
        if self.only_size not in (None, (height, width)):
            raise UsageError(
                f"diffusers: {self.layout.name} takes {self.layout.side} x {self.layout.side} pixels, not "
                f"{height} x {width}"
            )
        found = self.model.encode(convert(image.flatten(0, 1), "imagenet", self.layout.span))
        if self.layout.latent == "gaussian":
            latent = found.latent_dist.parameters
        else:
            latent = found.latents if hasattr(found, "latents") else found.latent
        if self.layout.pack > 1:
            latent = torch.cat([F.pixel_unshuffle(part, self.layout.pack) for part in latent.chunk(2, 1)], 1)
        patches = latent.flatten(2).transpose(1, 2).unflatten(0, image.shape[:2])
        # A copy, because a sharded module must not return views of one tensor.
        patches = patches.to(place_of(self)[1]).clone(memory_format=torch.contiguous_format)
        return Tokens(patches=patches, grid=(latent.shape[2], latent.shape[3]), cls=None)
