"""Recipe tables of the `vit` encoder and decoder. Imports no torch.

Defaults follow the published VTP models (arXiv 2512.13687 and their released code) where not said otherwise;
``rope_dtype`` is the one that differs: training wants exact tables, the published weights bfloat16 ones.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from vtp_core.config import ComponentConfig

Preset = Literal["nano", "tiny", "s", "b", "l"]
Norm = Literal["rmsnorm", "layernorm", "layernormbf16"]
Ffn = Literal["swiglu", "swiglu32", "swiglu64", "swiglu128", "mlp"]
RopeDtype = Literal["float32", "bfloat16"]
DropPathMode = Literal["row", "subset"]

PRESETS: dict[str, dict[str, int]] = {
    "nano": {"width": 96, "depth": 4, "heads": 3},
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "s": {"width": 384, "depth": 12, "heads": 6},
    "b": {"width": 768, "depth": 12, "heads": 12},
    "l": {"width": 1024, "depth": 24, "heads": 16},
}
"""Sizes by name: s, b and l as published, tiny as DeiT-Ti, nano for a CPU."""

Positive = Annotated[int, Field(gt=0)]


def _as_tuple(value: object) -> object:
    # Behind the preset's validator a TOML array is still a list, which the strict check of recipes refuses.
    return tuple(value) if isinstance(value, list) else value


Range = Annotated[tuple[float, float], BeforeValidator(_as_tuple)]


class VitConfig(ComponentConfig):
    """What encoder and decoder have in common."""

    preset: Preset | None = None
    """Size by name; sets those of `width`, `depth` and `heads` that aren't given."""
    width: Positive = 384
    """Token width D."""
    depth: Positive = 12
    """Number of blocks."""
    heads: Positive = 6
    """Attention heads; the head width D / heads is a multiple of 4."""
    ffn: Ffn = "swiglu"
    """Feed-forward layer: ``mlp`` (GELU) or SwiGLU with its hidden width rounded up to 8, 32, 64 or 128."""
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    """Hidden width over D; SwiGLU takes two thirds of it, so both have as many parameters."""
    norm: Norm = "rmsnorm"
    """``rmsnorm`` (eps 1e-5), ``layernorm`` (eps 1e-6) or ``layernormbf16`` (LayerNorm with eps 1e-5)."""
    qk_norm: bool = True
    """RMS norm of queries and keys over the head width, before the rotation."""
    layer_scale: Annotated[float, Field(gt=0)] | None = None
    """Initial value of a learned factor per channel on each residual branch; None: no such factor."""
    rope_base: Annotated[float, Field(gt=0)] = 100.0
    """Longest period of the rotary positions; coordinates run from -1 to 1."""
    rope_dtype: RopeDtype = "float32"
    """Dtype of tables and rotation; ``bfloat16`` is what the published weights were trained with."""
    rope_periods_saved: bool = False
    """Whether the periods are a buffer of the state dict, as in the published weights."""

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("preset"), str):
            return {**PRESETS.get(values["preset"], {}), **values}
        return values

    @model_validator(mode="after")
    def _check_heads(self) -> VitConfig:
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(
                f"width {self.width} / heads {self.heads} must be a multiple of 4 (2-D rotary positions)"
            )
        return self

    @property
    def head_width(self) -> int:
        """Channels of one head."""
        return self.width // self.heads

    @property
    def hidden(self) -> int:
        """Hidden width of the feed-forward layer."""
        wide = int(self.width * self.mlp_ratio)
        if self.ffn == "mlp":
            return wide
        step = int(self.ffn.removeprefix("swiglu") or 8)
        return -(-(wide * 2 // 3) // step) * step


class VitEncoderConfig(VitConfig):
    """``[encoder] use = "vit"``."""

    use: str = "vit"
    """Name of the component."""
    patch: Positive = 16
    """Pixels a patch side; image sides are multiples of it."""
    cls_token: bool = True
    """Whether there is a class token."""
    drop_path_mode: DropPathMode = "row"
    """How the views' `drop_path` is applied: ``row`` zeroes the branch of the rows that it hits; ``subset``
    (DINOv2) runs the branch only on the others, with a fixed number of them, which saves the work."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Factor on the learning rate a block, from the top down to patch embedding and tokens (DINOv2: 0.9)."""
    patch_embed_lr: Annotated[float, Field(ge=0)] = 1.0
    """Further factor on the learning rate of the patch embedding (DINOv2: 0.2)."""


class VitDecoderConfig(VitConfig):
    """``[decoder] use = "vit"``."""

    use: str = "vit"
    """Name of the component."""
    norm: Norm = "layernorm"
    """As the encoder's; the published decoders use LayerNorm."""
    upscale: Positive | None = None
    """Pixels a latent position side; None: the encoder's patch. The published models fix it at 16."""
    value_range: Literal["imagenet"] | Range = "imagenet"
    """Range of the images it makes: ``imagenet`` for ImageNet-normalised, else [black, white]."""
