"""The table of ``use = "clip"``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vtp_core.config import ObjectiveConfig
from vtp_core.view import ViewNeed, ViewSize

Positive = Annotated[int, Field(gt=0)]


class ClipConfig(ObjectiveConfig):
    """Image-text contrast. The text tower's defaults are VTP's: 12 blocks of width 768, 77 tokens."""

    view: str
    """View whose first global crop and caption form a pair. If `dino` uses the same view, all its crops are
    also encoded unmasked."""
    rows: Positive | None = None
    """Global rows per step, the view's first ones; default: all."""
    features: Literal["cls", "pooled"] = "cls"
    """The image's class token, or the mean of its patch tokens."""
    bottleneck: bool = False
    """Whether to use the latent's tokens instead of the encoder's (VTP's `bottleneck_ae_only = False`)."""
    width: Positive = 768
    """Width of the text tower."""
    depth: Positive = 12
    """Blocks of the text tower."""
    heads: Positive = 12
    """Attention heads of the text tower; must divide `width`."""
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    """Hidden width of a block's MLP over `width`."""
    quick_gelu: bool = False
    """Whether x * sigmoid(1.702 x) replaces GELU, as in OpenAI's CLIP weights."""
    context: Annotated[int, Field(ge=3)] = 77
    """Tokens to which a caption is padded or truncated, including start and end token."""
    embedding: Positive | None = None
    """Width of the joint embedding; default: the text tower's."""
    vocabulary: Positive = 49408
    """Size of the token table; the default is that of CLIP's byte-pair encoding."""
    merges: Annotated[int, Field(ge=0, le=48894)] | None = None
    """Number of CLIP's byte-pair merges in use, the most frequent ones, for a small token table of 514 more
    entries; rare words then have more tokens, at worst one per byte."""
    causal: bool = True
    """Whether the text tower's attention is causal."""
    layer_scale: float | None = None
    """Initial value of the text tower's layer scale; None: no layer scale."""
    pool: Literal["argmax", "first", "last"] = "argmax"
    """Token whose features represent the caption: that of the largest id (its end), the first or the last."""
    projection: Literal["matrix", "biased", "none"] = "matrix"
    """Projection to the joint embedding: a matrix, a linear layer with bias, or none."""
    weights: str | None = None
    """File with an open_clip or OpenAI CLIP model, whose text tower is read into this one of the same sizes;
    None or ``"random"``: fresh weights. A resume reads it too, before its checkpoint replaces them."""
    temperature: Annotated[float, Field(gt=0, le=1)] = 0.07
    """Initial temperature; its inverse, the scale of the logits, is trained and clamped to 1 .. 100."""
    equal_text_mask: bool = True
    """Whether pairs with equal captions are excluded from each other's negatives."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide width = {self.width}")
        if self.projection == "none" and self.embedding not in (None, self.width):
            raise ValueError("projection = 'none' keeps the text tower's width: leave embedding out")
        if self.merges is not None and self.vocabulary not in (49408, self.tokens):
            raise ValueError(
                f"merges = {self.merges} makes a vocabulary of {self.tokens}: leave vocabulary out"
            )
        return self

    @property
    def tokens(self) -> int:
        """Size of the token table."""
        return self.vocabulary if self.merges is None else self.merges + 514

    def views(self) -> Mapping[str, ViewNeed]:
        """The one view, with captions."""
        return {self.view: ViewNeed(text=True, rows=self.rows)}

    def chance(
        self, views: Mapping[str, ViewSize], objectives: Mapping[str, ObjectiveConfig]
    ) -> Mapping[str, float]:
        """The cross-entropy of equal probabilities of all rows; equal captions make it a little less."""
        view = views.get(self.view)
        return {} if view is None else {"contrast": math.log(self.rows or view.rows)}
