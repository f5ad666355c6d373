"""The owner's configuration files: what this reader heeds of them, checked. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from vtp_core.config import Table
from vtp_core.errors import CheckpointError
from vtp_plugins.pretrained.settings import checked_table, inner
from vtp_plugins.rae.config import (
    Depth,
    Eps,
    Family,
    RaeConfig,
    RaeDecoderConfig,
    RaeEncoderConfig,
    Three,
    Width,
)

TARGET = "stage1.RAE"
Side = Annotated[int, Field(gt=0, le=1 << 16)]


class Networks(Table):
    """The tables of the three networks."""

    encoder: RaeEncoderConfig
    bottleneck: RaeConfig
    decoder: RaeDecoderConfig


class EncoderParams(Table):
    """``encoder_params``: the encoder's own arguments."""

    dinov2_path: str | None = None
    """Folder or hub name of DINOv2."""
    model_name: str | None = None
    """Folder or hub name of SigLIP2 or MAE."""
    num_tokens: int | None = None
    """Tokens of SigLIP2."""
    normalize: Literal[True] = True
    """Whether the final norm loses its scale and offset; without it the layout is not known."""


class Stage1(Table):
    """``stage_1.params``."""

    encoder_cls: Literal["Dinov2withNorm", "SigLIP2wNorm", "MAEwNorm"]
    """Class of the encoder."""
    encoder_params: EncoderParams
    """Its arguments."""
    encoder_config_path: str
    """Folder or hub name of the encoder's ``preprocessor_config.json``."""
    encoder_input_size: Side = 224
    """Side to which images are resized."""
    decoder_config_path: str
    """Folder of the decoder's ``config.json``."""
    decoder_patch_size: Annotated[int, Field(gt=0, le=1024)] = 16
    """Pixels a token side of the decoded image."""
    pretrained_decoder_path: str
    """The decoder's weights."""
    noise_tau: float = 0.8
    """Noise of training; without effect here."""
    reshape_to_2d: Literal[True] = True
    """Whether the latent is a map; a latent without places has no decoder here."""
    normalization_stat_path: str | None = None
    """Statistics of the latents; None: none."""
    eps: Eps = 1e-5
    """Added to their variance."""

    @property
    def family(self) -> Family:
        """Architecture of the encoder."""
        families: Mapping[str, Family] = {
            "Dinov2withNorm": "dinov2",
            "SigLIP2wNorm": "siglip2",
            "MAEwNorm": "mae",
        }
        return families[self.encoder_cls]

    @property
    def encoder_path(self) -> str:
        """Folder or hub name of the encoder's weights."""
        params = self.encoder_params
        return (
            params.dinov2_path if self.family == "dinov2" else params.model_name
        ) or self.encoder_config_path


class VitSettings(Table):
    """What is heeded of an encoder's ``config.json``; defaults are those of transformers' classes."""

    hidden_size: Width = 768
    num_hidden_layers: Depth = 12
    num_attention_heads: Width = 12
    intermediate_size: Width = 3072
    image_size: Side = 224
    patch_size: Side = 16
    num_channels: Literal[3] = 3
    layer_norm_eps: Eps = 1e-6
    hidden_act: Literal["gelu"] = "gelu"
    qkv_bias: Literal[True] = True

    @property
    def hidden(self) -> int:
        """Width of the feed-forward layers."""
        return self.intermediate_size


class DinoSettings(VitSettings):
    """Of DINOv2 with registers."""

    mlp_ratio: Annotated[int, Field(gt=0, le=64)] = 4
    num_register_tokens: Literal[4] = 4
    use_swiglu_ffn: Literal[False] = False

    @property
    def hidden(self) -> int:
        """Width of the feed-forward layers."""
        return self.hidden_size * self.mlp_ratio


class MaeSettings(VitSettings):
    """Of MAE."""

    layer_norm_eps: Eps = 1e-12


class SiglipSettings(VitSettings):
    """Of SigLIP's vision tower."""

    hidden_act: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"  # type: ignore[assignment]


class DecoderSettings(Table):
    """What is heeded of the decoder's ``config.json``."""

    decoder_hidden_size: Width
    decoder_num_hidden_layers: Depth
    decoder_num_attention_heads: Width
    decoder_intermediate_size: Width
    layer_norm_eps: Eps = 1e-12
    hidden_act: Literal["gelu"] = "gelu"
    qkv_bias: Literal[True] = True
    num_channels: Literal[3] = 3


class Preprocessor(Table):
    """What is heeded of ``preprocessor_config.json``."""

    image_mean: Three
    image_std: Three


ENCODERS: Mapping[Family, tuple[str, type[VitSettings]]] = {
    "dinov2": ("dinov2_with_registers", DinoSettings),
    "siglip2": ("siglip", SiglipSettings),
    "mae": ("vit_mae", MaeSettings),
}
"""Family -> `model_type` of its ``config.json``, and the table."""

_Settings = TypeVar("_Settings", bound=Table)


def stage1_table(raw: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """``stage_1.params`` of a configuration of RAE; None: it is none."""
    stage = raw.get("stage_1")
    if not isinstance(stage, Mapping) or stage.get("target") != TARGET:
        return None
    return inner(stage, "params")


def read_stage1(path: Path, params: Mapping[str, Any]) -> Stage1:
    """The checked table.

    Raises:
        CheckpointError: A key that is missing, unknown or has a value that this version doesn't know.
    """
    if "encoder_name" in params:
        raise CheckpointError(
            f"{path}: encoder_name is a key of RAEv2, whose files are not documented well enough to be read"
        )
    return heeded(Stage1, path, params, strict=True)


def heeded(kind: type[_Settings], path: Path, raw: Mapping[str, Any], *, strict: bool = False) -> _Settings:
    """The table of the keys that `kind` knows; with `strict` others are an error.

    Raises:
        CheckpointError: A value that this version doesn't know.
    """
    given = raw if strict else {key: value for key, value in raw.items() if key in kind.model_fields}
    return checked_table(kind, path, given)
