"""The tables of ``use = "generation"``. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from vtp_core.config import ObjectiveConfig, Table
from vtp_core.view import ViewNeed, ViewSize
from vtp_plugins.generation.guidance import guidance_conflict

Preset = Literal["nano", "s", "b", "l", "xl"]

PRESETS: dict[str, dict[str, int]] = {
    "nano": {"width": 128, "depth": 6, "heads": 4},
    "s": {"width": 384, "depth": 12, "heads": 6},
    "b": {"width": 768, "depth": 12, "heads": 12},
    "l": {"width": 1024, "depth": 24, "heads": 16},
    "xl": {"width": 1152, "depth": 28, "heads": 16},
}
"""Sizes by name: s to xl as published (Peebles and Xie, 2022), nano for a CPU."""

SAMPLER_KEYS: dict[str, frozenset[str]] = {
    "euler": frozenset({"steps", "shift"}),
    "heun": frozenset({"steps", "shift"}),
    "dopri5": frozenset({"rtol", "atol"}),
}
"""Sampler -> what it reads of the keys that not every sampler reads."""

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Interval = Annotated[tuple[Share, Share], BeforeValidator(_as_tuple)]


class HeadConfig(Table):
    """A wide, shallow head (DDT; RAE): it reads the noisy tokens, under the transformer's as condition."""

    width: Positive = 2048
    """Token width of the head; at least the channels of a latent token (RAE)."""
    depth: Positive = 2
    """Blocks of the head (RAE)."""
    heads: Positive = 16
    """Attention heads of the head (RAE)."""


class TransformerConfig(Table):
    """LightningDiT: a transformer with adaLN-zero, RMSNorm, SwiGLU and 2-D rotary positions."""

    preset: Preset | None = None
    """Size by name; sets those of `width`, `depth` and `heads` that aren't given."""
    width: Positive = 768
    """Token width; narrower than a latent token it can't carry one (RAE, section 4)."""
    depth: Positive = 12
    """Number of blocks."""
    heads: Positive = 12
    """Attention heads; width / heads is a multiple of 4."""
    patch: Positive = 1
    """Latent positions a side of one token."""
    mlp_ratio: PositiveFloat = 4.0
    """Hidden width of the feed-forward layer over `width`, of which SwiGLU takes two thirds."""
    qk_norm: bool = False
    """RMS norm of queries and keys: cures loss spikes of long bfloat16 runs (LightningDiT)."""
    rope_base: PositiveFloat = 10_000.0
    """Base of the rotary periods; positions are counted in tokens (LightningDiT)."""
    time_scale: PositiveFloat = 1000.0
    """Factor on the time before its sines and cosines: 1000 as DiT's steps, 1 in LightningDiT."""
    head: HeadConfig | None = None
    """A wide head in place of the last layer (RAE's DiT-DH)."""

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("preset"), str):
            return {**PRESETS.get(values["preset"], {}), **values}
        return values

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        parts = {"": (self.width, self.heads)}
        if self.head is not None:
            parts["head: "] = (self.head.width, self.head.heads)
        for where, (width, heads) in parts.items():
            if width % heads or (width // heads) % 4:
                raise ValueError(
                    f"{where}width {width} / heads {heads} must be a multiple of 4 (2-D rotary positions)"
                )
        return self

    @property
    def widest(self) -> int:
        """Width of the tokens that the last layer reads."""
        return self.width if self.head is None else self.head.width


class SamplingConfig(Table):
    """How samples are made; a call of `Tokenizer.generate` may change each key."""

    sampler: Literal["euler", "heun", "dopri5"] = "euler"
    """`euler` and `heun` (two calls of the network a step) take `steps` and `shift`, `dopri5` chooses its
    steps by `rtol` and `atol`. A call that sets what its sampler does not read is refused."""
    steps: Annotated[int, Field(gt=0, le=100_000)] = 50
    """Steps of `euler` and `heun` (RAE: 50)."""
    guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Classifier-free guidance w: v = v_none + w (v_class - v_none) on all channels; 1: none."""
    interval: Interval = (0.0, 1.0)
    """Times, 0 = noise and 1 = data, between which guidance acts."""
    shift: PositiveFloat | None = None
    """Shift of the grid of times, see `shift` of the objective; default: the one of the training."""
    rtol: PositiveFloat = 1e-3
    """Relative tolerance of `dopri5` (SiT)."""
    atol: PositiveFloat = 1e-6
    """Absolute tolerance of `dopri5` (SiT)."""
    balance: Literal["data", "uniform"] = "data"
    """Classes where none are given: as often as among the `statistics_rows` training rows, or all alike.
    Shares are rough of few rows a class; where a protocol draws all classes alike, set `uniform`."""

    def unused(self) -> Mapping[str, str]:
        """Key -> why its value changes no sample under these settings."""
        others = frozenset().union(*SAMPLER_KEYS.values()) - SAMPLER_KEYS[self.sampler]
        found = {key: f"with sampler {self.sampler}" for key in others}
        return found | ({"interval": "without guidance"} if self.guidance == 1 else {})

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.interval[0] >= self.interval[1]:
            raise ValueError(f"interval must be ascending, got {list(self.interval)}")
        return self


class GenerationConfig(ObjectiveConfig):
    """Flow matching on the normalised latents of a frozen tokenizer. Times: 0 = noise, 1 = data."""

    needs_frozen_tokenizer: ClassVar[bool] = True

    view: str
    """View whose latents are modelled; cached latents serve as well as images."""
    rows: Positive | None = None
    """Global rows per step, the view's first ones; default: all."""
    classes: Annotated[int, Field(ge=0)] = 0
    """Classes to condition on, labels 0 .. classes - 1; 0: none."""
    drop_class: Share = 0.1
    """Share of rows whose class is hidden, for guidance (DiT)."""
    transformer: TransformerConfig = TransformerConfig()
    """The network."""
    prediction: Literal["velocity", "x"] = "velocity"
    """Output of the network: the velocity, or the data, from which the velocity follows (JiT)."""
    cosine: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Factor on 1 - cosine between the velocities, over channels (LightningDiT)."""
    times: Literal["lognorm", "uniform"] = "lognorm"
    """Distribution of the times before the shift: their logit is normal, or they are uniform (RAE)."""
    lognorm_mu: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Mean of the logit of the time; below 0: more noise (VTP: -0.75 to -0.5)."""
    lognorm_sigma: PositiveFloat = 1.0
    """Deviation of the logit of the time."""
    shift: PositiveFloat | None = None
    """Shift a of the times: t becomes t / (t + a (1 - t)); above 1: more noise. Default: the square root of
    the latent's numel / 4096 (RAE), at least 1 (ours)."""
    statistics_rows: Positive = 2048
    """Training rows for mean and deviation of each latent channel, before step 0 (LightningDiT: 10,000)."""
    sampling: SamplingConfig = SamplingConfig()
    """How samples are made."""

    def views(self) -> Mapping[str, ViewNeed]:
        """The one view."""
        classes = self.classes or None
        return {self.view: ViewNeed(rows=self.rows, latent=True, label=classes is not None, classes=classes)}

    def conflicts(self) -> Mapping[str, str]:
        """Guidance that the training does not prepare."""
        return guidance_conflict(self.sampling.guidance, self.classes, self.drop_class)

    def chance(
        self, views: Mapping[str, ViewSize], objectives: Mapping[str, ObjectiveConfig]
    ) -> Mapping[str, float]:
        """Loss of the velocity zero: latents and noise have unit variance."""
        if self.prediction != "velocity":
            return {}
        return {"velocity": 2.0} | ({"cosine": self.cosine} if self.cosine else {})
