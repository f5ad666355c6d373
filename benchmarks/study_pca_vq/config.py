"""The table of a cell: features, codebook, training, measures. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from benchmarks.study.arm import Run
from vtp_core.config import Table
from vtp_core.recipe.reading.files import read_tree
from vtp_plugins.pca_vq.config import BranchConfig
from vtp_plugins.timm.config import TimmConfig

Positive = Annotated[int, Field(gt=0)]


class FeaturesConfig(Table):
    """Vectors of images."""

    data: Literal["cifar10", "openclipart64"]
    """The shards; the samples of the package stand in for them where none are given."""
    native: Positive
    """Side in pixels at which images are decoded."""
    size: Positive
    """Side in pixels that the encoder sees."""
    pool: Positive
    """Training images that are read."""
    train: Positive
    """Of these, those that a seed draws."""
    val: Positive
    """Images that are held out."""
    tokens: Positive
    """Most vectors of an image."""
    of: Literal["network", "tokenizer", "pixels"] = "network"
    """Which of the next three keys holds."""
    encoder: TimmConfig
    """A frozen network of timm."""
    tokenizer: str = ""
    """A run folder, an artefact or the name of a shipped tokenizer, whose encoder is read."""
    patch: Positive = 4
    """Native pixels a side of raw patches."""
    layer: Annotated[int, Field(ge=0)] | None = None
    """Block to tap; None: the encoder's output."""


class TrainingConfig(Table):
    """How the codebook is trained."""

    initialise: Literal["kmeans", "data", "random", "normal"]
    """k-means++, rows of the data, N(0, 1 / D) as a network's weights, or N(0, variance of each axis)."""
    initial: Positive
    """Vectors for the first two."""
    steps: Positive
    """Updates."""
    batch: Positive
    """Vectors of each."""


class MeasuresConfig(Table):
    """What is measured beside use and errors."""

    decoder: Annotated[int, Field(ge=0)]
    """Training images that the ridge decoder is solved on; 0: no decoder and no probe."""
    trained: Annotated[int, Field(ge=0)] = 0
    """Updates of a trained decoder, on all training images; 0: there is none."""
    forecast: bool = False
    """Whether `vtp codebook predict`'s forecast stands beside the use."""


class CellConfig(Table):
    """A cell."""

    features: FeaturesConfig
    """Where the vectors come from."""
    dimensions: Positive | None = None
    """Leading principal axes that there are at all, in features and codes; None: all."""
    codebook: BranchConfig
    """The codebook; without a meaning if `continuous`."""
    training: TrainingConfig
    """Its training."""
    measures: MeasuresConfig
    """What is measured."""
    folder: str | None = None
    """Where the shards are."""
    continuous: bool = False
    """Whether there is no codebook."""


def read_cell(run: Run, overrides: tuple[str, ...] = ()) -> CellConfig:
    """The table of a run."""
    return CellConfig.model_validate(read_tree(run.arm.recipe, (*run.arm.overrides, *overrides)).values)
