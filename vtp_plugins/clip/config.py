"""The table of ``use = "clip"``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vtp_core.config import ObjectiveConfig
from vtp_core.view import ViewNeed

Positive = Annotated[int, Field(gt=0)]


class ClipConfig(ObjectiveConfig):
    """Image-text contrast. The text tower's defaults are VTP's: 12 layers of width 768, 77 tokens."""

    view: str
    """View whose first global crop and caption make a pair. That of `dino` will do: all its crops are then
    encoded unmasked too."""
    rows: Positive | None = None
    """Global rows a step, the view's first ones; all by default."""
    features: Literal["cls", "pooled"] = "cls"
    """The image's class token, or the mean of its patch tokens."""
    bottleneck: bool = False
    """Read the latent's tokens instead of the encoder's (VTP's `bottleneck_ae_only = False`)."""
    width: Positive = 768
    """Width of the text tower."""
    depth: Positive = 12
    """Blocks of the text tower."""
    heads: Positive = 12
    """Attention heads of the text tower; they divide `width`."""
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    """Hidden width of a block's MLP over `width`."""
    quick_gelu: bool = False
    """x * sigmoid(1.702 x) in place of GELU, as OpenAI's CLIP weights need it."""
    context: Annotated[int, Field(ge=3)] = 77
    """Tokens a caption is padded or cut to, start and end token included."""
    embedding: Positive | None = None
    """Width of the joint embedding; the text tower's by default."""
    vocabulary: Positive = 49408
    """Token ids of the text tower; captions become at most that of CLIP's byte-pair encoding, the default."""
    merges: Annotated[int, Field(ge=0, le=48894)] | None = None
    """Cuts CLIP's byte-pair encoding to this many merges, the most frequent, for a small token table: the
    vocabulary is then 514 more, and rare words fall into more tokens, at worst one a byte."""
    causal: bool = True
    """Whether a token of a caption sees only those before it."""
    layer_scale: float | None = None
    """Initial value of a learned factor per channel on each residual of the text tower; None: none."""
    pool: Literal["argmax", "first", "last"] = "argmax"
    """Token whose features stand for the caption: the one of the largest id (its end), the first or last."""
    projection: Literal["matrix", "biased", "none"] = "matrix"
    """From the text tower to the joint embedding: a matrix, a linear layer with bias, or nothing."""
    temperature: Annotated[float, Field(gt=0, le=1)] = 0.07
    """Initial temperature; its inverse, the scale of the logits, is trained and stays within 1 .. 100."""
    equal_text_mask: bool = True
    """Pairs with the same caption are not each other's negatives."""

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
        """Rows of the token table."""
        return self.vocabulary if self.merges is None else self.merges + 514

    def views(self) -> Mapping[str, ViewNeed]:
        """The one view, with captions."""
        return {self.view: ViewNeed(text=True, rows=self.rows)}
