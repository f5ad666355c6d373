"""Sizes, pixel range and latent statistics of diffusers' autoencoders, from their settings. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from vtp_core.errors import CheckpointError

CLASS = "_class_name"
"""Key of a ``config.json`` that names diffusers' class."""
EVALUATED = 256
"""Side in pixels at which a network that takes any size is measured, as the field's tables are."""

LatentKind = Literal["gaussian", "plain", "codes"]
Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What an autoencoder of diffusers takes and gives.

    Attributes:
        name: diffusers' class.
        latent: Kind of its latent.
        patch: Pixels a side of a latent position.
        channels: Latent channels.
        codes: Size of its codebook; 0 without one.
        pack: Positions a side that are packed into the channels of one; 1: none.
        span: Values of black and white.
        side: The only side of images that it takes; None: any multiple of `patch`.
        statistics: Per-channel mean and deviation of the latents; None: its weights hold them.
        factor: Factor on the normalised latents.
    """

    name: str
    latent: LatentKind
    patch: int
    channels: int
    codes: int = 0
    pack: int = 1
    span: tuple[float, float] = (-1.0, 1.0)
    side: int | None = None
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None
    factor: float = 1.0

    @property
    def image_size(self) -> int:
        """Side of the images that it is evaluated with: its own, else about 256."""
        return self.side or self.patch * max(1, round(EVALUATED / self.patch))

    @property
    def width(self) -> int:
        """Channels that leave the encoder: mean and log variance of a Gaussian latent."""
        return self.channels * (2 if self.latent == "gaussian" else 1)


def layout_of(model: Settings) -> Layout:
    """The layout of settings as a ``config.json`` of diffusers has them.

    Raises:
        CheckpointError: Another class, or settings that don't go together.
    """
    name = str(model.get(CLASS))
    if name not in _LAYOUTS:
        raise CheckpointError(
            f"diffusers' {name} is not read here; those that are: {', '.join(sorted(_LAYOUTS))}"
        )
    try:
        for key in ("in_channels", "out_channels", "num_channels"):
            if model.get(key, 3) != 3:
                raise ValueError(f"{key} is {model[key]!r}, and images have 3 channels")
        found = _LAYOUTS[name](name, model)
        if not (0 < found.patch <= 1024 and 0 < found.channels <= 1 << 16):
            raise ValueError(f"{found.channels} channels of {found.patch} pixels a position")
        if not (math.isfinite(found.factor) and found.factor > 0):
            raise ValueError(f"scaling_factor is {found.factor!r}")
        return found
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"settings of diffusers' {name}: {error}; config.json was edited") from None


def _kl(name: str, model: Settings) -> Layout:
    channels = _whole(model, "latent_channels", 4)
    return Layout(
        name=name,
        latent="gaussian",
        patch=_halvings(model.get("block_out_channels", (64,))),
        channels=channels,
        statistics=_statistics(model, channels),
        factor=float(model.get("scaling_factor", 0.18215)),
    )


def _flux2(name: str, model: Settings) -> Layout:
    pack, other = model.get("patch_size", (2, 2))
    if pack != other or type(pack) is not int:
        raise ValueError(f"patch_size is {[pack, other]}, and only squares are packed")
    return Layout(
        name=name,
        latent="gaussian",
        patch=pack * _halvings(model.get("block_out_channels", (128, 256, 512, 512))),
        channels=pack**2 * _whole(model, "latent_channels", 32),
        pack=pack,
        statistics=None,
    )


def _vq(name: str, model: Settings) -> Layout:
    channels = _whole(model, "vq_embed_dim", _whole(model, "latent_channels", 3))
    return Layout(
        name=name,
        latent="codes",
        patch=_halvings(model.get("block_out_channels", (64,))),
        channels=channels,
        codes=_whole(model, "num_vq_embeddings", 256),
        statistics=_statistics(model, channels),
        factor=float(model.get("scaling_factor", 0.18215)),
    )


def _dc(name: str, model: Settings) -> Layout:
    channels = _whole(model, "latent_channels", 32)
    return Layout(
        name=name,
        latent="plain",
        patch=_halvings(model.get("encoder_block_out_channels", (128, 256, 512, 512, 1024, 1024))),
        channels=channels,
        statistics=_statistics(model, channels),
        factor=float(model.get("scaling_factor", 1.0)),
    )


def _tiny(name: str, model: Settings) -> Layout:
    channels = _whole(model, "latent_channels", 4)
    patch = _halvings(model.get("num_encoder_blocks", (1, 3, 3, 3)))
    enlarged = _whole(model, "upsampling_scaling_factor", 2) ** (
        len(model.get("num_decoder_blocks", (3, 3, 3, 1))) - 1
    )
    if enlarged != patch:
        raise ValueError(f"the encoder reduces by {patch}, and the decoder enlarges by {enlarged}")
    return Layout(
        name=name,
        latent="plain",
        patch=patch,
        channels=channels,
        statistics=_statistics(model, channels),
        factor=float(model.get("scaling_factor", 1.0)),
    )


def _rae(name: str, model: Settings) -> Layout:
    if model.get("reshape_to_2d", True) is not True:
        raise ValueError("reshape_to_2d is false, and latents are maps here")
    channels = _whole(model, "encoder_hidden_size", 768)
    grid = _whole(model, "encoder_input_size", 224) // _whole(model, "encoder_patch_size", 14)
    patch = _whole(model, "patch_size", 16)
    side = _whole(model, "image_size", grid * patch)
    if side != grid * patch:
        raise ValueError(f"image_size is {side}, and {grid} positions of {patch} pixels are {grid * patch}")
    # Statistics and scaling are applied inside its encode and decode.
    return Layout(
        name=name,
        latent="plain",
        patch=patch,
        channels=channels,
        span=(0.0, 1.0),
        side=side,
        statistics=((0.0,) * channels, (1.0,) * channels),
    )


_LAYOUTS: Mapping[str, Callable[[str, Settings], Layout]] = {
    "AutoencoderKL": _kl,
    "AutoencoderKLFlux2": _flux2,
    "VQModel": _vq,
    "AutoencoderDC": _dc,
    "AutoencoderTiny": _tiny,
    "AutoencoderRAE": _rae,
}


def _statistics(model: Settings, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation: of SDXL's kind by channel, of SD3's one shift for all, else 0 and 1."""
    mean, std, shift = (model.get(key) for key in ("latents_mean", "latents_std", "shift_factor"))
    if (mean is None) != (std is None):
        raise ValueError("latents_mean and latents_std come together")
    if mean is None or std is None:
        return (float(shift or 0.0),) * channels, (1.0,) * channels
    if shift:
        raise ValueError("it has both shift_factor and latents_mean")
    means, stds = (tuple(float(value) for value in values) for values in (mean, std))
    if len(means) != channels or len(stds) != channels:
        raise ValueError(f"latents_mean and latents_std have {len(means)} values for {channels} channels")
    if not all(math.isfinite(value) for value in (*means, *stds)) or min(stds) <= 0:
        raise ValueError("latents_mean and latents_std must be finite, latents_std above 0")
    return means, stds


def _whole(model: Settings, key: str, default: int) -> int:
    value = model.get(key)
    if value is None:
        return default
    if type(value) is not int or not 0 < value <= 1 << 24:
        raise ValueError(f"{key} is {value!r}, expected a whole number above 0")
    return value


def _halvings(levels: Any) -> int:
    if not isinstance(levels, list | tuple) or not 1 <= len(levels) <= 11:
        raise ValueError(f"{levels!r} are no 1 to 11 levels")
    return cast(int, 2 ** (len(levels) - 1))
