"""The keys of a published ``config.json``, their defaults, and the component tables they mean. No torch.

Defaults are the published class's own, not those of a published size: the weights' file says what a size is.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from vtp_core.config import Table

Width = Annotated[int, Field(gt=0, le=1 << 16)]
Depth = Annotated[int, Field(ge=1, le=1000)]
Ratio = Annotated[float, Field(gt=0, le=64)]
Ffn = Literal["swiglu", "swiglu32", "swiglu64", "swiglu128", "mlp"]
Norm = Literal["rmsnorm", "layernorm", "layernormbf16"]
RopeDtype = Literal["bfloat16", "float32"]

OPTIONS = ("vision_", "text_", "decoder_", "init_", "train_", "nonscalar_")
"""How the keys begin that change the network: an unknown one of these is an error, others are kept."""
TRAINED_LOGIT_SCALE = math.log(1 / 0.07)
"""What `init_logit_scale` None means."""
DECODER_MLP_RATIO = 4.0
UPSCALE = 16
"""The decoder's, whatever the patch."""
ROPE_BASE = 100.0


class PublishedConfig(Table):
    """The keys of a published ``config.json`` that say what the network is."""

    image_size: Annotated[int, Field(gt=0, le=1 << 16)] = 256
    """Side of the images it was trained on; any multiple of the patch works."""
    vision_patch_size: Annotated[int, Field(gt=0, le=1024)] = 16
    """Pixels a patch side."""
    vision_embed_dim: Width = 768
    """Encoder width D."""
    vision_depth: Depth = 12
    """Encoder blocks."""
    vision_num_heads: Width = 12
    """Encoder heads."""
    vision_mlp_ratio: Ratio = 4.0
    """Feed-forward width over D; SwiGLU takes two thirds."""
    vision_ffn_layer: Ffn = "swiglu"
    """``mlp`` (GELU), or SwiGLU rounded up to a multiple of 8, 32, 64 or 128."""
    vision_norm_layer: Norm = "rmsnorm"
    """Norm of the encoder."""
    vision_init_values: float | None = None
    """LayerScale's initial value; None and 0: no LayerScale."""
    vision_use_qk_norm: bool = False
    """RMS norm of queries and keys."""
    vision_feature_bottleneck: Width | None = 64
    """Latent channels d; D or None: no layer."""
    vision_bottleneck_ae_only: bool = True
    """Whether the contrastive head reads the encoder's tokens rather than the latent's."""
    vision_clip_feat: Literal["cls", "pooled"] = "cls"
    """Contrastive head reads the class token, or the mean of the patches."""
    text_context_length: Annotated[int, Field(gt=0, le=1 << 16)] = 77
    """Tokens a caption."""
    text_vocab_size: Annotated[int, Field(gt=0, le=1 << 24)] = 49408
    """Token ids."""
    text_embed_dim: Width = 768
    """Width of the text tower and of the joint embedding."""
    text_num_heads: Width = 12
    """Heads of the text tower."""
    text_depth: Depth = 12
    """Blocks of the text tower."""
    text_mlp_ratio: Ratio = 4.0
    """MLP width over the text tower's."""
    text_ls_init_value: float | None = None
    """LayerScale's initial value in the text tower; None: no LayerScale."""
    text_embed_cls: bool = False
    """One more position. The class embedding itself is not part of the published model: captions then
    have `text_context_length` + 1 tokens."""
    text_pad_id: int = 0
    """Without effect in the published model."""
    text_no_causal_mask: bool = False
    """Whether tokens see those after them."""
    text_pool_type: Literal["argmax", "first", "last", "none"] = "argmax"
    """Which token stands for the caption: largest id, first, last, or each for itself."""
    text_proj_type: Literal["linear", "none"] = "linear"
    """Whether there is a projection."""
    text_proj_bias: bool = False
    """A linear layer with bias instead of a matrix."""
    text_output_tokens: bool = False
    """Without effect in the published model."""
    text_quick_gelu: bool = False
    """x * sigmoid(1.702 x) in the text tower."""
    decoder_embed_dim: Width = 768
    """Decoder width E."""
    decoder_depth: Depth = 12
    """Decoder blocks."""
    decoder_num_heads: Width = 12
    """Decoder heads."""
    decoder_ffn_layer: Ffn = "swiglu"
    """As the encoder's; the ratio is fixed at 4."""
    decoder_norm_layer: Norm = "layernorm"
    """Norm of the decoder."""
    decoder_init_values: float | None = None
    """As the encoder's."""
    decoder_use_qk_norm: bool = False
    """As the encoder's."""
    init_logit_scale: float | None = None
    """Initial log of the contrastive scale; None and 0: ln(1 / 0.07)."""
    init_logit_bias: float | None = None
    """Initial bias of the contrastive scores (SigLIP); None: no bias."""
    nonscalar_logit_scale: bool = False
    """Whether scale and bias have shape (1,) instead of ()."""
    train_clip: bool = True
    """Whether there is a text tower and a contrastive head."""
    train_reconstruction: bool = True
    """Whether there is a pixel decoder."""
    rope_dtype: RopeDtype = "bfloat16"
    """Dtype of the rotary positions. Not a key of the published class, which knows bfloat16 alone."""

    @model_validator(mode="after")
    def _heads_divide_widths(self) -> Self:
        for name in ("vision", "decoder", "text") if self.train_reconstruction else ("vision", "text"):
            width, heads = getattr(self, f"{name}_embed_dim"), getattr(self, f"{name}_num_heads")
            step = 1 if name == "text" else 4
            if width % (heads * step) and (name != "text" or self.train_clip):
                raise ValueError(
                    f"{name}_embed_dim {width} must be a multiple of {step} x {name}_num_heads {heads}"
                )
        return self

    @property
    def channels(self) -> int:
        """Latent channels d."""
        return self.vision_feature_bottleneck or self.vision_embed_dim

    @property
    def text_positions(self) -> int:
        """Tokens of a caption."""
        return self.text_context_length + int(self.text_embed_cls)

    def tables(self) -> dict[str, Any]:
        """The component tables that build the same networks; ``heads`` as an artefact has them."""
        rope = {
            "rope_base": ROPE_BASE,
            "rope_dtype": self.rope_dtype,
            "rope_periods_saved": self.rope_dtype == "bfloat16",
        }
        decoder = {
            **self._vit("decoder"),
            **rope,
            "mlp_ratio": DECODER_MLP_RATIO,
            "upscale": UPSCALE,
            "value_range": "imagenet",
        }
        encoder = {
            **self._vit("vision"),
            **rope,
            "mlp_ratio": self.vision_mlp_ratio,
            "patch": self.vision_patch_size,
            "cls_token": True,
        }
        return {
            "encoder": encoder,
            "bottleneck": {"use": "linear", "channels": self.channels},
            "decoder": decoder if self.train_reconstruction else None,
            "heads": {"clip": self._clip()} if self.train_clip else {},
        }

    def _vit(self, part: str) -> dict[str, Any]:
        return {
            "use": "vit",
            "width": getattr(self, f"{part}_embed_dim"),
            "depth": getattr(self, f"{part}_depth"),
            "heads": getattr(self, f"{part}_num_heads"),
            "ffn": getattr(self, f"{part}_ffn_layer"),
            "norm": getattr(self, f"{part}_norm_layer"),
            "qk_norm": getattr(self, f"{part}_use_qk_norm"),
            "layer_scale": getattr(self, f"{part}_init_values") or None,
        }

    def _clip(self) -> dict[str, Any]:
        objective = {
            "use": "clip",
            "view": "image",
            "features": self.vision_clip_feat,
            "bottleneck": not self.vision_bottleneck_ae_only,
            "width": self.text_embed_dim,
            "depth": self.text_depth,
            "heads": self.text_num_heads,
            "mlp_ratio": self.text_mlp_ratio,
            "quick_gelu": self.text_quick_gelu,
            "context": self.text_positions,
            "vocabulary": self.text_vocab_size,
            "causal": not self.text_no_causal_mask,
            "layer_scale": self.text_ls_init_value,
            "pool": self.text_pool_type,
            "projection": self.text_projection,
        }
        exports = {"embed_image": "image", "embed_text": "text", "logit_scale": "logit_scale"}
        return {"objective": objective, "exports": exports}

    @property
    def text_projection(self) -> Literal["matrix", "biased", "none"]:
        """Kind of the text projection, by the `clip` plugin's names."""
        if self.text_proj_type == "none":
            return "none"
        return "biased" if self.text_proj_bias else "matrix"
