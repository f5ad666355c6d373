"""Recipe tables of the fusion of layers, the latent chain and the bottleneck. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vtp_core.config import ComponentConfig, Table

Layer = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class FusionConfig(Table):
    """``fusion = { kind = "concat", layers = [2] }``: which layers make the latent, and how."""

    kind: Literal["concat", "mean", "residual"] = "concat"
    """`concat`: deep tokens beside a projection of shallow layers (DINO-Tok). `mean`: the mean of layers
    (RAEv2). `residual`: deep tokens beside those of a small trained encoder (SVG), published as a tap."""
    layers: tuple[Layer, ...] = ()
    """Blocks to tap besides the last: shallow ones, those of the mean, or the residual encoder's tap."""
    norm: Literal["layer", "none"] = "layer"
    """Norm of each tapped token: a layer norm without weights, or none if the encoder has normed them."""
    shallow: Positive = 64
    """Channels of the shallow branch of `concat`: 768 + 64 = 832 in DINO-Tok."""
    add_mean: bool = False
    """`mean`: add the mean over all positions of the last layer, as RAEv2 does."""
    layer_drop: Fraction = 0.0
    """`mean`: probability that a row leaves a layer out in training; one is always kept (FuseReg)."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.layers and self.kind != "concat":
            raise ValueError(f"layers: {self.kind!r} needs at least one")
        if self.kind == "residual" and len(self.layers) != 1:
            raise ValueError("layers: 'residual' takes the one tap of the residual encoder")
        if self.kind != "mean" and (self.add_mean or self.layer_drop):
            raise ValueError(f"add_mean and layer_drop are of kind 'mean', not {self.kind!r}")
        return self


class ChainConfig(Table):
    """``chain = { noise = 0.8 }``: what the decoder sees of a latent in training."""

    noise: Annotated[float, Field(ge=0)] = 0.0
    """Largest deviation tau of the noise: each row's is drawn from 0 .. tau (RAE: 0.8), in units of the
    latent before its normalisation."""
    mask: Fraction = 0.0
    """Largest fraction of positions set to the latent's mean: each row's is drawn from 0 .. mask."""


class FusionBottleneckConfig(ComponentConfig):
    """``[bottleneck] use = "fusion"``: fused layers, normalised channel by channel; continuous."""

    use: str = "fusion"
    """Name of the component."""
    fusion: FusionConfig = FusionConfig()
    """Which layers, and how they are fused."""
    normalize: bool = True
    """Whether channels get mean 0 and deviation 1, measured on training data before step 0."""
    calibration_rows: Positive = 512
    """Images that mean and deviation are measured on."""
    recalibrate: tuple[Positive, ...] = ()
    """Steps that measure them again, for branches that train; the decoder then sees another scale."""
    chain: ChainConfig = ChainConfig()
    """Noise and masks between bottleneck and decoder, in training."""

    @model_validator(mode="after")
    def _measures(self) -> Self:
        if self.recalibrate and not self.normalize:
            raise ValueError("recalibrate: nothing is measured with normalize = false")
        return self
