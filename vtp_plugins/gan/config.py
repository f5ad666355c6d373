"""The table of ``use = "gan"`` and the tables of its critics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from vtp_core.config import KeyHistory, Table
from vtp_core.recipe.tables.adversarial import AdversarialConfig
from vtp_core.schedule import NotNegative
from vtp_core.view import ViewNeed

Norm = Literal["none", "group", "sample", "batch"]
Augmentation = Literal["color", "translation", "cutout"]
Positive = Annotated[int, Field(gt=0)]


class PatchGanConfig(Table):
    """PatchGAN: convolutions over overlapping patches (Isola et al. 2017); defaults as in LDM and VA-VAE."""

    kind: Literal["patchgan"] = "patchgan"
    """Name of this critic."""
    filters: Positive = 64
    """Channels of the first layer; each further one doubles them, up to 8 times."""
    layers: Positive = 3
    """Layers with stride 2."""
    norm: Norm = "group"
    """``group``: groups of at most 32 channels; ``sample``: each channel of each row; ``none``; ``batch``: as
    published, over the rows of one rank, so that results depend on the number of ranks."""
    augment: tuple[Augmentation, ...] = ()
    """Differentiable augmentation of the critic's inputs (Zhao et al. 2020), in this order."""


class DinoConfig(Table):
    """Heads on a frozen network's features (StyleGAN-T's critic; defaults as in RAE)."""

    kind: Literal["dino"] = "dino"
    """Name of this critic."""
    network: Annotated[str, Field(pattern=r"^timm:[A-Za-z0-9_.]+$")] = "timm:vit_small_patch8_224.dino"
    """A timm network; DINO ViT-S/8 as RAE."""
    weights: str | None = None
    """File with its weights; default: an installed package, else the hub. ``"random"``: an untrained network,
    for tests and planning only."""
    size: Annotated[int, Field(ge=16)] | None = None
    """Side to which images are resized; default: the network's if it is fixed (224 for DINO ViT-S/8), else
    the image's."""
    taps: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Stages or blocks whose features are used; default: all, or four of a network with more than six."""
    kernel: Annotated[int, Field(ge=1)] = 9
    """Kernel size of a head's convolution in tokens; odd."""
    norm: Norm = "sample"
    """As `norm` of ``patchgan``; RAE normalises each row by itself."""
    augment: tuple[Augmentation, ...] = ("color", "translation")
    """As `augment` of ``patchgan``; without cutout as RAE."""

    @model_validator(mode="after")
    def _odd(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, not {self.kernel}")
        return self


class StyleGanConfig(Table):
    """Residual blocks with blurred downsampling and one logit per row, similar to StyleGAN2's critic.

    It has no minibatch standard deviation, which mixes rows, and no equalised learning rates.
    """

    kind: Literal["stylegan"] = "stylegan"
    """Name of this critic."""
    filters: Positive = 64
    """Channels of the first block; each further one doubles them, up to `max_filters`."""
    max_filters: Positive = 512
    """Largest number of channels."""
    layers: Positive = 4
    """Blocks, each with stride 2."""
    norm: Norm = "none"
    """As `norm` of ``patchgan``."""
    augment: tuple[Augmentation, ...] = ()
    """As `augment` of ``patchgan``."""


CriticConfig = Annotated[PatchGanConfig | DinoConfig | StyleGanConfig, Field(discriminator="kind")]


class GanConfig(AdversarialConfig):
    """An adversarial loss. The critic trains from step `start` on."""

    key_history: ClassVar[KeyHistory] = KeyHistory(
        renamed={"critic.most": "critic.max_filters"}, values={"critic.augment": {"colour": "color"}}
    )

    view: str
    """View whose first global crop is reconstructed."""
    rows: Positive | None = None
    """Global rows per step, the view's first ones; default: all."""
    critic: CriticConfig = PatchGanConfig()
    """The critic: ``kind`` is ``patchgan``, ``dino`` or ``stylegan``; the other keys depend on it."""
    loss: Literal["hinge", "non_saturating", "relativistic"] = "hinge"
    """``hinge`` (LDM, RAE); ``non_saturating`` (Goodfellow et al. 2014); ``relativistic``: each
    reconstruction against its own image (R3GAN, Huang et al. 2024)."""
    adaptive: Literal["output", "last_layer", "none"] = "output"
    """Adaptive weight: scales the loss to the gradient of the group's other objectives, measured at the
    decoder's output or its last layer (Esser et al. 2021). `weight`, such as the published 0.75, multiplies
    it."""
    eps: Annotated[float, Field(gt=0)] = 1e-4
    """Added to the gradient norm in the denominator of the adaptive weight; RAE 1e-6."""
    limit: Annotated[float, Field(gt=0)] = 1e4
    """Largest adaptive weight."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps from `start` in which only the critic trains; RAE: an eighth of the run. An untrained critic's
    gradients damage a trained decoder."""
    ramp: Annotated[int, Field(ge=0)] = 0
    """Steps after `warmup` over which the decoder's loss rises linearly to its full weight."""
    r1: NotNegative = 0.0
    """Gamma of the gradient penalty gamma / 2 |gradient of a row's mean logit at its image|^2 (Mescheder et
    al. 2018); R3GAN: 150 falling to 15 at 256 pixels."""
    r2: NotNegative = 0.0
    """As `r1`, at reconstructions; R3GAN uses both."""
    penalty_every: Positive = 1
    """Steps between gradient penalties, each weighted by this number (lazy regularisation)."""
    lecam: Annotated[float, Field(ge=0)] = 0.0
    """Weight of LeCAM's regulariser (Tseng et al. 2021); TiTok 0.001, Open-MAGVIT2 0.05."""
    lecam_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Momentum of LeCAM's moving averages of the logits, which start at 0."""
    round_reconstructions: bool = False
    """Whether the critic trains on reconstructions rounded to 8 bit, like the images (RAE)."""
    alarm_accuracy: Annotated[float, Field(gt=0.5, le=1)] = 0.95
    """Accuracy above which the critic counts as too strong."""
    alarm_logits: Annotated[float, Field(gt=0)] = 100.0
    """Mean absolute logit above which the logits count as diverging."""
    alarm_steps: Positive = 100
    """Consecutive steps after which ``alarm`` is logged as 1, with a warning that says what to do: the critic
    is too strong or (after `warmup`) no better than chance, its logits diverge, or the adaptive weight is at
    `limit`."""
    alarm_pause: bool = False
    """Whether the decoder's loss is switched off during an alarm; the critic still trains."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.lecam and self.loss == "relativistic":
            raise ValueError('lecam regularises absolute logits, which loss = "relativistic" does not train')
        return self

    def views(self) -> Mapping[str, ViewNeed]:
        """The one view."""
        return {self.view: ViewNeed(rows=self.rows)}

    def untrained(self) -> Self:
        """As for any component, and without warm-up, so that a planned step includes the decoder's loss."""
        return super().untrained().model_copy(update={"warmup": 0})

    def exposure(self, index: int) -> float:
        """Factor on the decoder's loss at step `index` from warm-up and ramp, in [0, 1]."""
        seen = index - self.start - self.warmup + 1
        return 0.0 if seen <= 0 else min(1.0, seen / max(self.ramp, 1))
