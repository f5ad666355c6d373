"""The owner's configuration of a VA-VAE, and the component tables that its tensors mean. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from vtp_core.config import Table
from vtp_core.errors import CheckpointError
from vtp_plugins.cnn.config import CnnDecoderConfig, CnnEncoderConfig
from vtp_plugins.kl.config import KlConfig
from vtp_plugins.pretrained.settings import Shapes, checked_table, count, fitting, inner

RESOLUTION = 256
"""Side of the images that the published model was trained on."""
SIGNED = (-1.0, 1.0)
"""Range of the images that the networks take and make."""


class DdConfig(Table):
    """``model.params.ddconfig``: the sizes of encoder and decoder."""

    ch: int
    """Channels of the finest level."""
    ch_mult: tuple[int, ...]
    """Channels of each level over `ch`, finest first."""
    num_res_blocks: int
    """Residual blocks a level of the encoder; the decoder has one more."""
    attn_resolutions: tuple[int, ...]
    """Nominal sides of the maps with attention: `resolution` / 2^level, whatever the image."""
    resolution: int = RESOLUTION
    """Nominal side of the images."""
    z_channels: int
    """Latent channels."""
    in_channels: int = 3
    """Channels of an image."""
    out_ch: int = 3
    """Channels of a decoded image."""
    double_z: bool = True
    """Whether the encoder makes twice `z_channels`."""
    dropout: float = 0.0
    """Without effect outside training."""


class Networks(Table):
    """The tables of the three networks."""

    encoder: CnnEncoderConfig
    bottleneck: KlConfig
    decoder: CnnDecoderConfig

    @classmethod
    def of_shapes(cls, path: Path, shapes: Shapes) -> Self:
        """The tables that the names and shapes of a checkpoint's tensors mean.

        Raises:
            CheckpointError: They are not those of such a model.
        """
        levels = count(shapes, r"encoder\.down\.(\d+)\.")
        attention = [i for i in range(levels) if f"encoder.down.{i}.attn.0.q.weight" in shapes]
        with fitting(path, "VA-VAE"):
            finest = shapes["encoder.conv_in.weight"][0]
            widths = [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)]
            latent = shapes["post_quant_conv.weight"][1]
            if not widths or widths[0] != finest or any(width % finest for width in widths):
                raise ValueError(f"levels of {widths} channels after {finest} are not supported")
            sizes = {
                "channels": finest,
                "multipliers": tuple(width // finest for width in widths),
                "residual_blocks": count(shapes, r"encoder\.down\.0\.block\.(\d+)\.conv1\.weight"),
                "attention": tuple(2**i for i in attention),
                "value_range": SIGNED,
            }
            return cls(
                encoder=CnnEncoderConfig(**sizes, width=shapes["encoder.conv_out.weight"][0]),
                bottleneck=KlConfig(channels=latent),
                decoder=CnnDecoderConfig(**sizes),
            )

    def ddconfig(self, resolution: int) -> DdConfig:
        """The owner's table of the same sizes."""
        return DdConfig(
            ch=self.encoder.channels,
            ch_mult=self.encoder.multipliers,
            num_res_blocks=self.encoder.residual_blocks,
            attn_resolutions=tuple(resolution // reduction for reduction in self.encoder.attention),
            resolution=resolution,
            z_channels=self.bottleneck.channels,
        )


class Settings(Table):
    """What the reader heeds of the owner's configuration files."""

    ddconfig: DdConfig | None = None
    """Sizes, to compare with the tensors'."""
    ckpt_path: str | None = None
    """Name of the checkpoint."""
    latent_norm: bool = True
    """Whether latents are normalised for the diffusion model."""
    latent_multiplier: float = 1.0
    """Factor on the normalised latents."""

    @classmethod
    def of_table(cls, path: Path, raw: Mapping[str, Any]) -> Self:
        """The settings in a configuration's content.

        Raises:
            CheckpointError: An entry is not what this version knows.
        """
        params, data = inner(raw, "model", "params"), inner(raw, "data")
        given = {key: data[key] for key in ("latent_norm", "latent_multiplier") if key in data}
        given |= {"ddconfig": params.get("ddconfig"), "ckpt_path": raw.get("ckpt_path")}
        return checked_table(cls, path, given)

    def check(self, path: Path, networks: Networks) -> None:
        """Refuses sizes that differ from the tensors'.

        Raises:
            CheckpointError: Names the first that differs.
        """
        if self.ddconfig is None:
            return
        own = networks.ddconfig(self.ddconfig.resolution)
        for key, value in own.model_copy(update={"dropout": self.ddconfig.dropout}):
            stated = getattr(self.ddconfig, key)
            if (sorted(stated) if key == "attn_resolutions" else stated) != (
                sorted(value) if key == "attn_resolutions" else value
            ):
                raise CheckpointError(
                    f"{path}: {key} is {stated}, the checkpoint's tensors are of {value}; config and "
                    "weights are of different models"
                )


def is_settings(raw: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of an auto-encoder of this layout."""
    return "ddconfig" in inner(raw, "model", "params")
