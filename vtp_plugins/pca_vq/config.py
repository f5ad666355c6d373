"""Recipe tables of the bottleneck `pca_vq`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vtp_core.config import ComponentConfig, Table
from vtp_plugins.fusion.config import FusionConfig
from vtp_plugins.vq.config import EmaConfig

Positive = Annotated[int, Field(gt=0)]


class AxesConfig(Table):
    """``axes = { mode = "dsq", variance = 0.9 }``: what the search sees of the principal axes."""

    mode: Literal["plain", "reweight", "dsq", "whiten", "rate"] = "dsq"
    """`plain`: all axes alike. `reweight`: weights (variance / largest)^alpha (the paper's first version).
    `dsq`: the dominant axes alone (its revision). `whiten`: all axes to variance 1. `rate`: the axes that
    reverse water-filling gives bits at the codebook's rate."""
    alpha: float = 1.0
    """Exponent of `reweight`."""
    rank: Positive | None = None
    """Axes of `dsq`; None: by `variance`."""
    variance: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Fraction of the variance that the axes of `dsq` explain."""
    bits: Annotated[float, Field(gt=0)] | None = None
    """Bits a vector for `rate`; None: those of the codebook, log2 of its size."""


class BranchConfig(Table):
    """How the vectors of one branch are quantised."""

    axes: AxesConfig = AxesConfig()
    """The metric of the search."""
    codebook: EmaConfig = EmaConfig(codes=16384, commitment=0.0)
    """The codebook, by moving average in the rotated, unweighted space. `commitment` is for branches that
    train: a frozen encoder takes no gradient."""
    decode: Literal["full", "subspace"] = "full"
    """Whether axes that the search leaves out decode to their code's mean, or to the mean of all."""
    recalibrate: tuple[Positive, ...] = ()
    """Steps at which a branch that trains measures its axes again; the codebook is rotated along."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.codebook.metric == "cosine":
            raise ValueError("codebook.metric: the axes define a squared distance; use the bottleneck vq")
        return self


class PcaVqConfig(ComponentConfig):
    """``[bottleneck] use = "pca_vq"``: one codebook a branch, searched in its principal axes."""

    use: str = "pca_vq"
    """Name of the component."""
    fusion: FusionConfig = FusionConfig()
    """The branches: deep features, and shallow ones where `layers` names some."""
    quantizer: BranchConfig = BranchConfig()
    """Quantiser of every branch that `branches` does not name."""
    branches: Mapping[str, BranchConfig] = {}
    """Branch (deep, shallow, fused, residual) -> its own quantiser."""
    calibration_rows: Positive = 1024
    """Images that the axes are measured on before step 0."""
    sample_rows: Positive = 256
    """Images whose vectors initialise the codebooks, and of a step those that revive dead codes."""
    sample_tokens: Positive = 64
    """Vectors of each of those images."""
