"""Settings of the proxy generator of `vtp probe-gen`, and of the evaluator `probe_gen`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vtp_core.config import ComponentConfig, Table

Positive = Annotated[int, Field(gt=0)]

PROTOCOL = "probe-gen-v1"
"""The protocol of the defaults; its version changes with anything that changes a number."""
LEAST_IMAGES = 64
"""Fewer images tell nothing about a distance of distributions."""


class ProbeSettings(Table):
    """The proxy: a small transformer, its training and its samples. The defaults are `probe-gen-v1`."""

    steps: Positive = 1000
    """Training steps."""
    rows: Positive = 64
    """Latents of a step."""
    images: Annotated[int, Field(ge=LEAST_IMAGES)] = 5000
    """Most images that are encoded, spread over the source; each also as its mirror image. Samples are
    compared with the same images."""
    samples: Annotated[int, Field(ge=LEAST_IMAGES)] = 2000
    """Samples whose distance is measured."""
    euler_steps: Positive = 20
    """Euler steps of a sample."""
    width: Annotated[int, Field(gt=0, multiple_of=4)] = 128
    """Width of the transformer."""
    depth: Positive = 6
    """Blocks of the transformer."""
    heads: Positive = 4
    """Attention heads."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate of AdamW (0.9, 0.95, no decay, gradients clipped to norm 1), constant after warm-up."""
    warmup: Annotated[int, Field(ge=0)] = 50
    """Steps of linear warm-up."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of the transformer's matrix products, in training and sampling."""
    network: Annotated[str, Field(pattern=r"^timm:[A-Za-z0-9_.]+$")] = "timm:tf_efficientnet_lite0"
    """Network of the features that the distances compare."""
    weights: str | None = None
    """File of its weights; default: an installed package, else the hub."""
    resize: Annotated[int, Field(ge=16)] = 128
    """Side in pixels to which images are resized for it."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % (4 * self.heads):
            raise ValueError("width must be a multiple of 4 * heads: positions are rotated in two dimensions")
        return self

    @property
    def title(self) -> str:
        """`probe-gen-v1`, or that name and the settings that differ from it."""
        default = ProbeSettings()
        changed = [
            f"{name}={getattr(self, name)}"
            for name in ProbeSettings.model_fields
            if name != "weights" and getattr(self, name) != getattr(default, name)
        ]
        return f"{PROTOCOL} CHANGED {' '.join(changed)}" if changed else PROTOCOL

    def curve_steps(self, points: int = 5) -> tuple[int, ...]:
        """Training steps of a curve, each twice the one before, up to the last."""
        return tuple(sorted({max(1, round(self.steps / 2**back)) for back in range(points)}))


class ProbeGenConfig(ComponentConfig, ProbeSettings):
    """A table ``[evaluators.NAME]`` with ``use = "probe_gen"``: the settings of the proxy, and its seeds."""

    use: Literal["probe_gen"] = "probe_gen"
    """This evaluator."""
    images: Annotated[int, Field(ge=LEAST_IMAGES)] = 5000
    """Most images that are encoded: those of the training set of least hash of key and pixels, each also as
    its mirror image. Samples are compared with the same images. They are kept in memory: at most 1 GiB a
    rank, so that there are fewer of more than 267 px."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the proxy's weights, data order, noise and samples."""
    seeds: Positive = 1
    """Proxies trained for each tokenizer, of this seed and the following ones. Of several the value is the
    mean, and the error is over proxies; of one it is over its samples alone."""
