"""The `timm` encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtp_core.encoder import Encoder
from vtp_core.errors import UsageError
from vtp_core.features import Tokens
from vtp_core.parameters import ParamRule
from vtp_core.pixels import IMAGENET_MEAN, IMAGENET_STD
from vtp_plugins.timm.config import TimmConfig
from vtp_plugins.timm.network import Layout, network_blocks, pixel_statistics
from vtp_plugins.timm.weights import build_pretrained, leave_out, notices
from vtp_plugins.vit.encoder import VitEncoder


class TimmEncoder(Encoder):
    """A pretrained network of timm: its last block's tokens, and those of earlier blocks as taps.

    Class token and registers are not among the patches. Taps are outputs of blocks before the final norm;
    of a convolutional network, maps of stages on the grid of the last one. No mask token. Under autocast
    tokens leave in the parameters' dtype.

    Attributes:
        weights_hash: (8,) uint8, hash of the pretrained weights that were read; zeros: none.
    """

    has_cls: bool
    network: Any  # a module of timm, which is untyped
    weights_hash: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        self.config = config
        self.network, self.layout, digest = build_pretrained(config)
        self.register_buffer("weights_hash", digest)
        self.width, self.depth = self.layout.widths[-1], len(self.layout.widths)
        self.patch = config.patch or self.layout.native
        self.tap_widths = _tap_widths(self.layout, config)
        if config.store == "reference":
            leave_out(self, "network")
        self.residual = None
        if config.residual is not None:
            if config.residual.patch != self.patch:
                raise UsageError(
                    f"timm: residual.patch is {config.residual.patch}, the encoder's {self.patch}"
                )
            self.residual = VitEncoder(config.residual)
            self.taps = self.depth + 1
            self.tap_widths = (*self.tap_widths, config.residual.width)
        self.has_cls = getattr(self.network, "cls_token", None) is not None
        self.has_intermediate = self.layout.transformer
        mean, std = pixel_statistics(self.network)
        # From ImageNet's normalisation to the network's; not saved, the network's name says it.
        scale = [ours / theirs for ours, theirs in zip(IMAGENET_STD, std, strict=True)]
        shift = [(o - t) / s for o, t, s in zip(IMAGENET_MEAN, mean, std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Self:
        """The network stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def blocks(self) -> Sequence[nn.Module]:
        """The network's blocks or stages, first to last, then those of the residual network."""
        residual = () if self.residual is None else self.residual.blocks()
        return [*network_blocks(self.network), *residual]

    def rules(self) -> Sequence[ParamRule]:
        """Those of the residual network."""
        rules = () if self.residual is None else self.residual.rules()
        return [replace(rule, pattern=f"residual.{rule.pattern}") for rule in rules]

    def notices(self) -> Sequence[str]:
        """Name, hash and license of pretrained weights."""
        return notices(self.network, self.config, self.weights_hash)

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
            UsageError: A mask, a rate of drop path for trained blocks, a tap that doesn't exist, or images of
                a size that the network's positions can't take.
            ValueError: An image side is no multiple of the patch.
        """
        if any(mask is not None for mask in masks):
            raise UsageError("timm: pretrained networks have no mask token to hide patches with; use vit")
        if drop_path and self.config.trainable and self.training:
            raise UsageError("timm: its blocks drop no paths; leave `drop_path` of the view at 0")
        self.check_layers(layers, "forward")
        own = tuple(layer for layer in layers if layer < self.depth)
        found = [self._encode(image, own) for image in images]
        if self.residual is None or own == layers:
            return found
        beside = self.residual(images, masks, drop_path=drop_path)
        return [
            replace(tokens, layers={**tokens.layers, self.depth: extra.patches})
            for tokens, extra in zip(found, beside, strict=True)
        ]

    def intermediate(
        self, images: Tensor, layers: tuple[int, ...], *, normed: bool = False
    ) -> dict[int, Tensor]:
        """Output of single blocks with the class token, without registers; of transformers.

        See `vtp_core.encoder.Encoder.intermediate`.
        """
        if not self.layout.transformer:
            raise UsageError(f"timm: {self.config.name} is no transformer, so its blocks have no class token")
        outputs, cls = self._read(self._pixels(images, self._grid(images)), sorted(set(layers)))
        joined = {
            layer: tokens if layer not in cls else torch.cat([cls[layer][:, None], tokens], 1)
            for layer, tokens in outputs.items()
        }
        return {
            layer: (self._normed(tokens) if normed else tokens).to(self.scale.dtype)
            for layer, tokens in joined.items()
        }

    def _encode(self, image: Tensor, layers: tuple[int, ...]) -> Tokens:
        grid = self._grid(image)
        pixels = self._pixels(image.flatten(0, 1), grid)
        wanted = sorted({*layers, self.depth - 1})
        outputs, cls_of = self._read(pixels, wanted)
        cls = cls_of.get(self.depth - 1)

        def shaped(tokens: Tensor) -> Tensor:
            # A copy, because a sharded module must not return views.
            return tokens.unflatten(0, image.shape[:2]).to(self.scale.dtype, copy=True)

        return Tokens(
            patches=shaped(self._normed(outputs[self.depth - 1])),
            grid=grid,
            cls=None if cls is None else shaped(self._normed(cls)),
            layers={layer: shaped(outputs[layer]) for layer in layers},
        )

    def _grid(self, image: Tensor) -> tuple[int, int]:
        height, width = image.shape[-2:]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"timm: image of {height} x {width} pixels is no multiple of the patch {self.patch}"
            )
        return height // self.patch, width // self.patch

    def _pixels(self, image: Tensor, grid: tuple[int, int]) -> Tensor:
        """Images in the network's normalisation and at its scale."""
        size = (grid[0] * self.layout.native, grid[1] * self.layout.native)
        if self.layout.size is not None and size != self.layout.size:
            own, asked = (" x ".join(str(side) for side in each) for each in (self.layout.size, size))
            raise UsageError(
                f"timm: the positions of {self.config.name} are those of {own} pixels, these images come as "
                f"{asked}; give images of that size, or `options = {{ img_size = ... }}`"
            )
        if image.shape[-2:] != size:  # RAE resizes to DINOv2's patch of 14 by bicubic interpolation too
            image = F.interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False)
        return image * self.scale + self.shift

    def _read(self, pixels: Tensor, wanted: list[int]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Block -> its patches (R, N, D), and block -> its class token (R, D) if there is one."""
        read = self._read_tokens if self.layout.transformer else self._read_maps
        try:
            return read(pixels, wanted)
        except AssertionError as error:  # how timm refuses a size
            raise UsageError(
                f"timm: {self.config.name} can't take images of {tuple(pixels.shape[-2:])} pixels ({error})"
            ) from None

    def _read_tokens(self, pixels: Tensor, wanted: list[int]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        # Of a network without prefix tokens timm can't return them.
        found = self.network.forward_intermediates(
            pixels,
            indices=wanted,
            return_prefix_tokens=self.has_cls,
            output_fmt="NLC",
            intermediates_only=True,
        )
        if not self.has_cls:
            return dict(zip(wanted, found, strict=True)), {}
        patches = dict(zip(wanted, (tokens for tokens, _ in found), strict=True))
        return patches, dict(zip(wanted, (prefix[:, 0] for _, prefix in found), strict=True))

    def _read_maps(self, pixels: Tensor, wanted: list[int]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Stage -> its map on the grid of the last one, as tokens (R, N, D)."""
        found = self.network.forward_intermediates(pixels, indices=wanted, intermediates_only=True)
        tokens = {}
        for layer, maps in zip(wanted, found, strict=True):
            factor = self.layout.reductions[layer]
            if (maps.shape[-2] * factor, maps.shape[-1] * factor) != tuple(pixels.shape[-2:]):
                raise UsageError(
                    f"timm: the map of stage {layer} of {self.config.name} is {tuple(maps.shape[-2:])} for "
                    f"images of {tuple(pixels.shape[-2:])}; only maps that divide the image make tokens"
                )
            if (ratio := self.layout.native // factor) > 1:
                averaged = self.config.shallow == "average"
                maps = F.avg_pool2d(maps, ratio) if averaged else F.pixel_unshuffle(maps, ratio)
            tokens[layer] = maps.flatten(2).transpose(1, 2)
        return tokens, {}

    def _normed(self, tokens: Tensor) -> Tensor:
        if self.config.norm == "none":
            return tokens
        if self.config.norm == "no_affine":
            return F.layer_norm(tokens.float() if tokens.itemsize < 4 else tokens, (self.width,), eps=1e-6)
        normed: Tensor = self.network.norm(tokens)
        return normed


def _tap_widths(layout: Layout, config: TimmConfig) -> tuple[int, ...]:
    if layout.transformer or config.shallow == "average":
        return layout.widths
    pairs = zip(layout.widths, layout.reductions, strict=True)
    return tuple(width * (layout.native // reduction) ** 2 for width, reduction in pairs)
