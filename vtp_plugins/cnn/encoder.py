"""The `cnn` encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtp_core.encoder import Encoder
from vtp_core.errors import UsageError
from vtp_core.features import Tokens
from vtp_core.pixels import convert
from vtp_plugins.cnn.config import CnnEncoderConfig
from vtp_plugins.cnn.layers import Block, Halve, conv, initialize, norm
from vtp_plugins.cnn.strips import Strips, check_no_gradient


class CnnEncoder(Encoder):
    """Convolutional encoder of latent diffusion (Rombach et al. 2022): each position of its map is a token.

    No class token and no mask token. Under autocast the maps keep the autocast dtype, the tokens leave in
    that of the parameters.
    """

    has_cls = False
    has_strips = True
    taps = 0

    def __init__(self, config: CnnEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.width, self.patch = config.width, config.patch
        channels = config.level_channels
        self.conv_in = conv(3, channels[0])
        # Not named `blocks`, which is a method of the interface.
        self.block = nn.ModuleList()
        self.down = nn.ModuleList(Halve(inputs) for inputs in channels[:-1])
        inputs = channels[0]
        for level, outputs in enumerate(channels):
            for _ in range(config.residual_blocks):
                self.block.append(Block(inputs, outputs, attention=2**level in config.attention))
                inputs = outputs
        self.block.append(Block(inputs, inputs, attention=True))
        self.block.append(Block(inputs, inputs, attention=False))
        self.norm = norm(inputs)
        self.conv_out = conv(inputs, config.width)
        self.depth = len(self.block)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all initial values from torch's global generator (after `to_empty`, say)."""
        initialize(self)

    def blocks(self) -> Sequence[nn.Module]:
        """The residual blocks with their attention, first to last."""
        return list(self.block)

    def order(self) -> list[nn.Module]:
        """The residual blocks and what halves the map, as they are run."""
        layers: list[nn.Module] = []
        for number, block in enumerate(self.block):
            layers.append(block)
            level, place = divmod(number + 1, self.config.residual_blocks)
            if place == 0 and level <= len(self.down):
                layers.append(self.down[level - 1])
        return layers

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
            UsageError: A mask or a tapped block, which this network can't serve.
            ValueError: An image side is no multiple of the patch.
        """
        if layers:
            raise UsageError(
                "cnn: its blocks can't be tapped, their maps differ in size; use the encoder vit"
            )
        if any(mask is not None for mask in masks):
            raise UsageError("cnn: it has no mask token to hide patches with; use the encoder vit")
        return [self._encode(image, drop_path) for image in images]

    def _encode(self, image: Tensor, drop_path: float) -> Tokens:
        """(B, C, 3, H, W) to the tokens of one crop set."""
        height, width = image.shape[-2:]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"cnn: image of {height} x {width} pixels is no multiple of the patch {self.patch}"
            )
        pixels = convert(image.flatten(0, 1), "imagenet", self.config.value_range)
        if self.strip_rows is not None:
            check_no_gradient(self, image)
            with torch.no_grad():
                strips = Strips(self.strip_rows, image.device)
                x = strips.run(self.order(), strips.convolve(pixels, self.conv_in))
                y = strips.convolve(x, self.conv_out, self.norm).to(image.device)
        else:
            x = self.conv_in(pixels)
            for layer in self.order():
                x = layer(x, drop_path) if isinstance(layer, Block) else layer(x)
            y = self.conv_out(F.silu(self.norm(x)))
        y = y.to(self.conv_out.weight.dtype)
        patches = y.flatten(2).transpose(1, 2).unflatten(0, image.shape[:2])
        # A copy, because a sharded module must not return views of one tensor.
        patches = patches.clone(memory_format=torch.contiguous_format)
        return Tokens(patches=patches, grid=(y.shape[2], y.shape[3]), cls=None)
