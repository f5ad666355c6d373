"""Tiny encoder, bottleneck and decoder: each row on its own, all of the interfaces, in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn

from vtp_core.bottleneck import Bottleneck
from vtp_core.decoder import Decoder
from vtp_core.encoder import Encoder
from vtp_core.features import Features, Latent, Tokens
from vtp_core.parameters import Dims
from vtp_core.pixels import ValueRange
from vtp_core.training.forward.seeds import generator

TINY_DIMS = Dims(width=16, patch=8, depth=2, has_cls=True, channels=4, value_range="imagenet")
"""Sizes of the tiny networks unless told otherwise."""


class TinyEncoder(Encoder):
    """A patch embedding and blocks that mix each token with the mean of its crop.

    Args:
        dims: Its width, patch, depth and whether there is a class token.
    """

    def __init__(self, dims: Dims = TINY_DIMS) -> None:
        super().__init__()
        self.width, self.patch, self.depth, self.has_cls = dims.width, dims.patch, dims.depth, dims.has_cls
        self.embed = nn.Conv2d(3, dims.width, dims.patch, dims.patch)
        self.mask_token = nn.Parameter(torch.randn(1, dims.width))
        self.mixers = nn.ModuleList(nn.Linear(2 * dims.width, dims.width) for _ in range(dims.depth))
        self.norm = nn.LayerNorm(dims.width)

    def forward(
        self,
        images: list[Tensor],
        masks: list[Tensor | None],
        *,
        layers: tuple[int, ...] = (),
        drop_path: float = 0.0,
    ) -> list[Tokens]:
        """Tokens of every crop set; `drop_path` has no effect, there is nothing random here."""
        return [self._crops(image, mask, layers) for image, mask in zip_longest(images, masks)]

    def blocks(self) -> Sequence[nn.Module]:
        """The mixers."""
        return list(self.mixers)

    def _crops(self, image: Tensor, mask: Tensor | None, layers: tuple[int, ...]) -> Tokens:
        rows, crops = image.shape[:2]
        embedded = self.embed(image.flatten(0, 1))
        grid = (embedded.shape[2], embedded.shape[3])
        tokens = embedded.flatten(2).transpose(1, 2).unflatten(0, (rows, crops))
        if mask is None:
            tokens = tokens + 0 * self.mask_token  # it has a gradient in every forward
        else:
            tokens = torch.where(mask[..., None], self.mask_token.to(tokens.dtype), tokens)
        taps = {}
        for index, mixer in enumerate(self.mixers):
            mean = tokens.mean(2, keepdim=True).expand_as(tokens)
            tokens = tokens + torch.tanh(mixer(torch.cat([tokens, mean], -1)))
            if index in layers:
                taps[index] = tokens
        return Tokens(
            patches=self.norm(tokens),
            grid=grid,
            cls=self.norm(tokens.mean(2)) if self.has_cls else None,
            layers=taps,
        )


class TinyBottleneck(Bottleneck):
    """A linear layer to `dims.channels`, on patches and class token."""

    def __init__(self, dims: Dims = TINY_DIMS) -> None:
        super().__init__()
        self.channels = dims.channels
        self.project = nn.Linear(dims.width, dims.channels)

    def forward(self, features: Features) -> Latent:
        """The projected tokens."""
        return Latent(
            crops={
                name: Tokens(
                    patches=self.project(tokens.patches),
                    grid=tokens.grid,
                    cls=None if tokens.cls is None else self.project(tokens.cls),
                )
                for name, tokens in features.crops.items()
            }
        )


class TinyDecoder(Decoder):
    """A 1 x 1 convolution and a pixel shuffle."""

    def __init__(self, dims: Dims = TINY_DIMS) -> None:
        super().__init__()
        self.value_range: ValueRange = "imagenet" if dims.value_range is None else dims.value_range
        self.project = nn.Conv2d(dims.channels, 3 * dims.patch**2, 1)
        self.shuffle = nn.PixelShuffle(dims.patch)

    def forward(self, z: Tensor) -> Tensor:
        """The image of a latent map."""
        image: Tensor = self.shuffle(self.project(z))
        return image

    def last_layer(self) -> nn.Module:
        """The convolution."""
        return self.project


class TinyNetworks(nn.Module):
    """The three networks, initialised from a seed of their own.

    Args:
        dims: Sizes.
        seed: Seed of the weights; the global generator is left as it was.
    """

    def __init__(self, dims: Dims = TINY_DIMS, seed: int = 0) -> None:
        super().__init__()
        with torch.device("meta"):  # ranks that are threads share the global generator: keep off it
            self.encoder = TinyEncoder(dims)
            self.bottleneck = TinyBottleneck(dims)
            self.decoder = TinyDecoder(dims)
        self.to_empty(device="cpu")
        rng = generator("tiny networks", seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * fan_in**-0.5)
                if name == "encoder.norm.weight":
                    parameter.add_(1)
