"""Tiny networks that treat each row on its own, and the modules of a tiny run with one objective."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn

from vtp_core.bottleneck import Bottleneck
from vtp_core.config import ObjectiveConfig
from vtp_core.decoder import Decoder
from vtp_core.encoder import Encoder
from vtp_core.features import Features, Latent, Tokens
from vtp_core.objective import Objective
from vtp_core.parameters import Dims
from vtp_core.pixels import ValueRange
from vtp_core.training.forward.seeds import generator
from vtp_core.training.networks import Networks
from vtp_core.view import ViewNeed

TINY_DIMS = Dims(width=16, patch=8, depth=2, has_cls=True, channels=4, value_range="imagenet")
"""Default sizes of the tiny networks."""


class TinyEncoder(Encoder):
    """A patch embedding and blocks that mix each token with the mean of its crop.

    Args:
        dims: Its width, patch, depth and whether there is a class token.
    """

    has_intermediate = True

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

    def intermediate(
        self, images: Tensor, layers: tuple[int, ...], *, normed: bool = False
    ) -> dict[int, Tensor]:
        """The mixers' tokens after their mean, which is the class token."""
        taps = self._crops(images[:, None], None, layers).layers
        cls = {layer: tokens.mean(2, keepdim=True) for layer, tokens in taps.items()}
        joined = {i: torch.cat([*([cls[i]] if self.has_cls else []), taps[i]], 2)[:, 0] for i in taps}
        return {layer: self.norm(tokens) if normed else tokens for layer, tokens in joined.items()}

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
    """A linear layer to `dims.channels`, on patches and class token.

    With `dims.codebook_sizes`, code q of a token is its channel q, rounded down and taken modulo the size.
    """

    def __init__(self, dims: Dims = TINY_DIMS) -> None:
        super().__init__()
        self.channels, self.codebook_sizes = dims.channels, dims.codebook_sizes
        self.project = nn.Linear(dims.width, dims.channels)

    def forward(self, features: Features) -> Latent:
        """The projected tokens, and their codes."""
        crops = {
            name: Tokens(
                patches=self.project(tokens.patches),
                grid=tokens.grid,
                cls=None if tokens.cls is None else self.project(tokens.cls),
            )
            for name, tokens in features.crops.items()
        }
        if not self.codebook_sizes:
            return Latent(crops=crops)
        return Latent(crops=crops, codes={name: self._codes(tokens) for name, tokens in crops.items()})

    def _codes(self, tokens: Tokens) -> Tensor:
        """(B, C, Q, h, w)."""
        whole = tokens.patches.detach().floor().long()
        codes = [whole[..., q] % size for q, size in enumerate(self.codebook_sizes)]
        stacked: Tensor = torch.stack(codes, 2).unflatten(3, tokens.grid)
        return stacked


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
        with torch.device("meta"):  # draws nothing: rank threads share the global generator
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


class Provider(Objective):
    """An objective that takes part in no step and shares the given modules.

    Args:
        modules: Child name -> module.
        views: What it declares; a run requires some.
        dims: Sizes.
    """

    def __init__(self, modules: Mapping[str, nn.Module], views: Mapping[str, ViewNeed], dims: Dims) -> None:
        super().__init__(ObjectiveConfig(use="provider", start=sys.maxsize), dims)
        self._views = dict(views)
        for name, module in modules.items():
            self.add_module(name, copy.deepcopy(module))
        self.shares = self.teachers = tuple(modules)

    def views(self) -> Mapping[str, ViewNeed]:
        """The given ones."""
        return self._views


def name_of(objective: Objective) -> str:
    """The name that a tested objective has in its run: that of its component, without the plugin's."""
    return objective.config.use.rpartition(".")[2]


def tiny_run(
    objective: Objective | None,
    dims: Dims = TINY_DIMS,
    *,
    frozen: Mapping[str, nn.Module] | None = None,
    shared: Mapping[str, nn.Module] | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Networks:
    """The modules of a run with one objective on tiny networks, without EMA copies.

    Args:
        objective: The objective, in `dtype`.
        dims: Sizes of the tiny networks.
        frozen: What ``step.frozen`` finds; copied and frozen.
        shared: What ``step.shared`` finds, ``"dino.head"`` -> module; copied.
        dtype: Of all modules but the objective.
        seed: Seed of the tiny networks.
    """
    tiny = TinyNetworks(dims, seed).to(dtype)
    views = {} if objective is None else objective.views()
    groups: dict[str, dict[str, nn.Module]] = {}
    for path, module in (shared or {}).items():
        owner, _, child = path.partition(".")
        groups.setdefault(owner, {})[child] = module
    objectives: dict[str, Objective] = {
        owner: Provider(modules, views, dims).to(dtype) for owner, modules in groups.items()
    }
    if objective is not None:
        objectives[name_of(objective)] = objective
    return Networks(
        encoder=tiny.encoder,
        bottleneck=tiny.bottleneck,
        decoder=tiny.decoder,
        objectives=objectives,
        frozen={
            name: copy.deepcopy(module).to(dtype).requires_grad_(False).eval()
            for name, module in (frozen or {}).items()
        },
    )
