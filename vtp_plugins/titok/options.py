"""The owner's configuration of a TiTok, and the component tables that it means. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from vtp_core.config import Table
from vtp_plugins.kl.config import KlConfig
from vtp_plugins.pretrained.settings import Shapes, checked_table, count, fitting, inner
from vtp_plugins.titok.config import Positive, TiTokDecoderConfig, TiTokEncoderConfig
from vtp_plugins.vq.config import LearnedConfig, VqConfig

SIZES = {"small": (512, 8, 8), "base": (768, 12, 12), "large": (1024, 24, 16)}
"""Width, blocks and heads of the owner's names."""


class VqModel(Table):
    """``model.vq_model``: keys of training alone are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    token_size: Positive
    """Latent channels."""
    num_latent_tokens: Positive
    """Tokens N of the latent."""
    vit_enc_model_size: str
    """Name of the encoder's size."""
    vit_dec_model_size: str
    """Name of the decoder's size."""
    vit_enc_patch_size: Positive
    """Pixels a patch side of the encoder."""
    vit_dec_patch_size: Positive
    """Pixels a patch side of the decoder."""
    vit_enc_num_heads: Positive | None = None
    """Heads of an encoder whose size has none of the owner's names; not a key of the owner's."""
    vit_dec_num_heads: Positive | None = None
    """As `vit_enc_num_heads`, of the decoder."""
    quantize_mode: Literal["vq", "vae"] = "vq"
    """Whether the latent is quantised, or a Gaussian."""
    codebook_size: Positive | None = None
    """Codes; of `vq` alone."""
    use_l2_norm: bool | None = None
    """Whether vectors and codes have length 1; of `vq` alone."""
    commitment_cost: Annotated[float, Field(ge=0)] = 0.25
    """Factor on the commitment loss, for further training."""
    finetune_decoder: bool
    """Whether codes of a pixel decoder are scored, or pixels made."""
    is_legacy: bool = True
    """Whether tokens are read without a transposition."""

    @model_validator(mode="after")
    def _known_arrangement(self) -> Self:
        if self.is_legacy != self.finetune_decoder:
            what = "codes of another tokenizer, not pixels" if self.is_legacy else "no published arrangement"
            raise ValueError(
                f"is_legacy = {self.is_legacy} with finetune_decoder = {self.finetune_decoder} makes {what}"
            )
        if self.quantize_mode == "vae" and self.is_legacy:
            raise ValueError("quantize_mode = vae with is_legacy = true is no published arrangement")
        if self.quantize_mode == "vq" and (self.codebook_size is None or self.use_l2_norm is None):
            raise ValueError("codebook_size and use_l2_norm are needed")
        return self


class Settings(Table):
    """What the reader heeds of the owner's configuration."""

    vq_model: VqModel
    """``model.vq_model``."""
    crop_size: Positive
    """``dataset.preprocessing.crop_size``: side of the images."""

    @classmethod
    def of_table(cls, path: Path, raw: Mapping[str, Any]) -> Self:
        """The settings in a configuration's content.

        Raises:
            CheckpointError: A key is missing, or an entry is not what this version knows.
        """
        preprocessing = inner(raw, "dataset", "preprocessing")
        given = {"vq_model": inner(raw, "model", "vq_model")}
        if "crop_size" in preprocessing:
            given["crop_size"] = preprocessing["crop_size"]
        return checked_table(cls, path, given)

    def dump(self) -> dict[str, Any]:
        """The owner's configuration."""
        model = self.vq_model.model_dump(mode="json", exclude_none=True)
        return {
            "model": {"vq_model": model},
            "dataset": {"preprocessing": {"crop_size": self.crop_size}},
        }


class Networks(Table):
    """The tables of the three networks."""

    encoder: TiTokEncoderConfig
    bottleneck: VqConfig | KlConfig
    decoder: TiTokDecoderConfig

    @classmethod
    def of(cls, path: Path, settings: Settings, shapes: Shapes) -> Self:
        """The tables of a configuration; widths and numbers of blocks are those of the tensors.

        Args:
            path: The file of tensors, for messages.
            settings: The owner's configuration.
            shapes: Name -> shape of the tensors.

        Raises:
            CheckpointError: Configuration and tensors are of different models.
        """
        model = settings.vq_model
        place = {"size": settings.crop_size, "tokens": model.num_latent_tokens}
        with fitting(path, "TiTok"):
            return cls(
                encoder=TiTokEncoderConfig(
                    **_transformer(
                        "encoder", "enc", model.vit_enc_model_size, model.vit_enc_num_heads, shapes
                    ),
                    **place,
                    patch=model.vit_enc_patch_size,
                    legacy=model.is_legacy,
                ),
                bottleneck=_bottleneck(model),
                decoder=TiTokDecoderConfig(
                    **_transformer(
                        "decoder", "dec", model.vit_dec_model_size, model.vit_dec_num_heads, shapes
                    ),
                    **place,
                    patch=model.vit_dec_patch_size,
                    pixels=_pixels(shapes) if model.finetune_decoder else None,
                ),
            )


def is_settings(raw: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of a TiTok."""
    return "num_latent_tokens" in inner(raw, "model", "vq_model")


def size_name(width: int, depth: int, heads: int) -> str | None:
    """The owner's name of a size, if there is one."""
    return next((name for name, size in SIZES.items() if size == (width, depth, heads)), None)


def _transformer(part: str, short: str, name: str, heads: int | None, shapes: Shapes) -> dict[str, int]:
    width, depth = shapes[f"{part}.ln_pre.weight"][0], count(shapes, rf"{part}\.transformer\.(\d+)\.")
    if name in SIZES:
        if SIZES[name][:2] != (width, depth):
            raise ValueError(f"its {part} has {depth} blocks of width {width}, which is not {name!r}")
        return {"width": width, "depth": depth, "heads": SIZES[name][2]}
    if heads is None:
        raise ValueError(
            f"vit_{short}_model_size {name!r} is none of {', '.join(SIZES)}: add vit_{short}_num_heads"
        )
    return {"width": width, "depth": depth, "heads": heads}


def _bottleneck(model: VqModel) -> VqConfig | KlConfig:
    if model.quantize_mode == "vae":
        return KlConfig(channels=model.token_size)
    assert model.codebook_size is not None
    quantizer = LearnedConfig(
        kind="codebook_loss",
        codes=model.codebook_size,
        metric="cosine" if model.use_l2_norm else "l2",
        commitment=model.commitment_cost,
        initialise="random",
    )
    return VqConfig(channels=model.token_size, quantizer=quantizer, calibration_rows=0)


def _pixels(shapes: Shapes) -> dict[str, Any]:
    levels = count(shapes, r"pixel_decoder\.up\.(\d+)\.")
    codes, width = shapes["pixel_quantize.embedding.weight"]
    return {
        "codes": codes,
        "code_width": width,
        "channels": tuple(shapes[f"pixel_decoder.up.{i}.block.0.conv1.weight"][0] for i in range(levels)),
        "middle": count(shapes, r"pixel_decoder\.mid\.(\d+)\."),
        "blocks": count(shapes, r"pixel_decoder\.up\.0\.block\.(\d+)\."),
    }
