"""The tables of ``use = "generation_ar"``. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from vtp_core.config import ObjectiveConfig, Table
from vtp_core.view import ViewNeed
from vtp_plugins.generation.guidance import guidance_conflict

Preset = Literal["nano", "b", "l", "xl"]

PRESETS: dict[str, dict[str, int]] = {
    "nano": {"width": 128, "depth": 6, "heads": 4},
    "b": {"width": 768, "depth": 12, "heads": 12},
    "l": {"width": 1024, "depth": 24, "heads": 16},
    "xl": {"width": 1280, "depth": 36, "heads": 20},
}
"""Sizes by name: b to xl as published (LlamaGen, table 1), nano for a CPU."""

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class CodeTransformerConfig(Table):
    """A causal transformer with RMSNorm, SwiGLU and 2-D rotary positions."""

    preset: Preset | None = None
    """Size by name; sets those of `width`, `depth` and `heads` that aren't given."""
    width: Positive = 768
    """Token width."""
    depth: Positive = 12
    """Number of blocks."""
    heads: Positive = 12
    """Attention heads; width / heads is a multiple of 4."""
    mlp_ratio: PositiveFloat = 4.0
    """Hidden width of the feed-forward layer over `width`, of which SwiGLU takes two thirds."""
    qk_norm: bool = False
    """RMS norm of queries and keys."""
    rope_base: PositiveFloat = 10_000.0
    """Base of the rotary periods; positions are counted in latent positions (LlamaGen)."""

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("preset"), str):
            return {**PRESETS.get(values["preset"], {}), **values}
        return values

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(
                f"width {self.width} / heads {self.heads} must be a multiple of 4 (2-D rotary positions)"
            )
        return self


class CodeSamplingConfig(Table):
    """How samples are made; a call of `Tokenizer.generate` may change each key."""

    temperature: PositiveFloat = 1.0
    """Divisor of the logits."""
    top_k: Positive | None = None
    """Draw among that many most likely codes, and those that are as likely as the last of them; None: all."""
    guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Classifier-free guidance w of the logits, l_none + w (l_class - l_none); 1: none."""
    balance: Literal["data", "uniform"] = "data"
    """Classes where none are given: as often as among the `statistics_rows` training rows, or all alike.
    Shares are rough of few rows a class; where a protocol draws all classes alike, set `uniform`."""


class GenerationArConfig(ObjectiveConfig):
    """The likelihood of a frozen tokenizer's codes, position by position in raster order.

    The codes of a position are predicted in the order of the codebooks, each given the transformer's output
    for the position and the position's codes before it.
    """

    needs_frozen_tokenizer: ClassVar[bool] = True

    view: str
    """View whose codes are modelled."""
    rows: Positive | None = None
    """Global rows per step, the view's first ones; default: all."""
    classes: Annotated[int, Field(ge=0)] = 0
    """Classes to condition on, labels 0 .. classes - 1; 0: none."""
    drop_class: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of rows whose class is hidden, for guidance (LlamaGen)."""
    transformer: CodeTransformerConfig = CodeTransformerConfig()
    """The network."""
    statistics_rows: Positive = 2048
    """Training rows on which grid and shares of the classes are measured before step 0."""
    sampling: CodeSamplingConfig = CodeSamplingConfig()
    """How samples are made."""

    def views(self) -> Mapping[str, ViewNeed]:
        """The one view; cached latents have no codes."""
        return {self.view: ViewNeed(rows=self.rows, label=self.classes > 0, classes=self.classes or None)}

    def conflicts(self) -> Mapping[str, str]:
        """Guidance that the training does not prepare."""
        return guidance_conflict(self.sampling.guidance, self.classes, self.drop_class)
