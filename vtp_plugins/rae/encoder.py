"""The `rae` encoder: DINOv2 with registers, SigLIP2 or MAE, as RAE calls them.

Shapes: R rows, N = side * side patches, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtp_core.encoder import Encoder
from vtp_core.errors import UsageError
from vtp_core.features import Tokens
from vtp_core.pixels import UNIT, convert
from vtp_plugins.rae.config import Family, RaeEncoderConfig
from vtp_plugins.rae.layers import Block, initialize

REGISTERS = 4
"""Register tokens of DINOv2; RAE drops the class token and these by their number."""
LICENSES: Mapping[Family, str] = {
    "dinov2": "DINOv2 with registers, as published: Apache License 2.0",
    "siglip2": "SigLIP2, as published: Apache License 2.0",
    "mae": "MAE, as published: CC BY-NC 4.0, no commercial use",
}
DECODERS = "RAE's decoders, as published: MIT"


class RaeEncoder(Encoder):
    """Patch tokens after the final layer norm without its scale and offset (arXiv 2510.11690).

    Images of any size are resized to a square, bicubic without antialiasing, and so the grid is the same for
    all. Taps are outputs of blocks, before the norm. No mask token.
    """

    has_intermediate = True

    def __init__(self, config: RaeEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.width, self.patch, self.depth = config.width, config.patch, config.depth
        self.has_cls = config.family != "siglip2"
        registers = REGISTERS if config.family == "dinov2" else 0
        self.prefix = int(self.has_cls) + registers
        self.patch_embed = nn.Conv2d(
            3, config.width, kernel_size=config.native_patch, stride=config.native_patch
        )
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width)) if self.has_cls else None
        self.registers = nn.Parameter(torch.empty(1, registers, config.width)) if registers else None
        self.positions = nn.Parameter(torch.empty(1, int(self.has_cls) + config.positions**2, config.width))
        # Not named `blocks`, which is a method of the interface.
        self.block = nn.ModuleList(
            Block(
                config,
                gelu="tanh" if config.family == "siglip2" else "none",
                layer_scale=config.family == "dinov2",
            )
            for _ in range(config.depth)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all initial values from torch's global generator (after `to_empty`, say)."""
        initialize(self)
        for tokens in (self.cls_token, self.registers, self.positions):
            if tokens is not None:
                nn.init.trunc_normal_(tokens, std=0.02)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The same for images of all sizes."""
        return self.config.side, self.config.side

    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, first to last."""
        return list(self.block)

    def notices(self) -> Sequence[str]:
        """Licenses of the family's published weights and of RAE's decoders."""
        return LICENSES[self.config.family], DECODERS

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
            UsageError: A mask, a rate of drop path in training, or a tap that doesn't exist.
        """
        if any(mask is not None for mask in masks):
            raise UsageError("rae: its networks have no mask token to hide patches with; use vit")
        if drop_path and self.training:
            raise UsageError("rae: its blocks drop no paths; leave `drop_path` of the view at 0")
        self.check_layers(layers, "forward")
        return [self._encode(image, layers) for image in images]

    def intermediate(
        self, images: Tensor, layers: tuple[int, ...], *, normed: bool = False
    ) -> dict[int, Tensor]:
        """Output of single blocks with the class token if there is one, without registers."""
        _, taps = self._run(images, layers)
        found = {}
        for layer, tokens in taps.items():
            cls = tokens[:, : int(self.has_cls)]
            kept = torch.cat((cls, tokens[:, self.prefix :]), 1)
            found[layer] = self._normed(kept) if normed else kept
        return found

    def network_input(self, image: Tensor) -> Tensor:
        """ImageNet-normalised images (R, 3, H, W) at the network's size, in its own normalisation."""
        unit, side = convert(image, "imagenet", UNIT), self.config.input_size
        if unit.shape[-2:] != (side, side):
            unit = F.interpolate(unit, size=(side, side), mode="bicubic", align_corners=False)
        mean, std = (
            torch.tensor(values, dtype=unit.dtype, device=unit.device).view(3, 1, 1)
            for values in (self.config.image_mean, self.config.image_std)
        )
        return (unit - mean) / std

    def _encode(self, image: Tensor, layers: tuple[int, ...]) -> Tokens:
        tokens, taps = self._run(image.flatten(0, 1), layers)
        normed = self._normed(tokens)

        def shaped(each: Tensor) -> Tensor:
            # A copy, because a sharded module must not return views of one tensor.
            return each.unflatten(0, image.shape[:2]).clone(memory_format=torch.contiguous_format)

        return Tokens(
            patches=shaped(normed[:, self.prefix :]),
            grid=self.grid(*image.shape[-2:]),
            cls=shaped(normed[:, 0]) if self.has_cls else None,
            layers={layer: shaped(tap[:, self.prefix :]) for layer, tap in taps.items()},
        )

    def _run(self, image: Tensor, layers: tuple[int, ...]) -> tuple[Tensor, dict[int, Tensor]]:
        """(R, 3, H, W) to the last block's tokens (R, prefix + N, D), before the norm, and those tapped."""
        dtype = self.positions.dtype
        x = self.patch_embed(self.network_input(image)).to(dtype).flatten(2).transpose(1, 2)
        split = int(self.has_cls)
        x = x + self._grid_positions(self.positions[:, split:])
        front = []
        if self.cls_token is not None:
            front.append(self.cls_token + self.positions[:, :1])
        if self.registers is not None:
            front.append(self.registers)
        x = torch.cat((*(part.expand(x.shape[0], -1, -1) for part in front), x), 1)
        taps = {}
        for index, block in enumerate(self.block):
            x = block(x).to(dtype)
            if index in layers:
                taps[index] = x
        return x, taps

    def _grid_positions(self, positions: Tensor) -> Tensor:
        """(1, positions^2, D) to (1, N, D): interpolated as transformers does, in float32."""
        stored, side = self.config.positions, self.config.side
        if stored == side:
            return positions
        maps = positions.transpose(1, 2).unflatten(2, (stored, stored)).float()
        antialias = self.config.family == "dinov2"
        maps = F.interpolate(
            maps, size=(side, side), mode="bicubic", align_corners=False, antialias=antialias
        )
        return maps.flatten(2).transpose(1, 2).to(positions.dtype)

    def _normed(self, tokens: Tensor) -> Tensor:
        return F.layer_norm(tokens, (self.width,), eps=self.config.eps)
