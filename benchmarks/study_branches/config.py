"""The table of a cell: features, layers, latent, codebook, measures. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from benchmarks.study.arm import Run
from vtp_core.config import Table
from vtp_core.recipe.reading.files import read_tree
from vtp_plugins.fusion.config import FusionConfig
from vtp_plugins.timm.config import TimmConfig
from vtp_plugins.vq.config import QuantizerConfig

Positive = Annotated[int, Field(gt=0)]


class FeaturesConfig(Table):
    """Layers of images."""

    data: Literal["cifar10", "samples"]
    """The shards; the samples of the package stand in for CIFAR-10 where none are given."""
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
    tokenizer: str = ""
    """A run folder, an artefact or the name of a shipped tokenizer, whose encoder is read."""
    encoder: TimmConfig | None = None
    """A network of timm in its place."""


class LatentConfig(Table):
    """What the latent is made of."""

    of: Literal["deep", "shallow", "both", "mean", "residual"]
    """The last layer, the shallow branch, the two together, the mean of layers, or the last layer beside a
    small trained encoder."""
    channels: Positive | None = None
    """Leading principal axes that are kept; None: all channels."""
    quantizer: QuantizerConfig | None = None
    """The codebook, or one for each branch (`product` with a group a branch); None: continuous."""


class ResidualConfig(Table):
    """The small trained encoder."""

    width: Positive = 64
    """Its channels, as many as the shallow branch has."""
    depth: Positive = 2
    """Blocks."""
    heads: Positive = 2
    """Attention heads."""
    steps: Positive = 600
    """Updates, together with a decoder."""


class TrainingConfig(Table):
    """How the codebook is trained."""

    initial: Positive
    """Vectors that initialise it."""
    steps: Positive
    """Updates."""
    batch: Positive
    """Vectors of each."""


class MeasuresConfig(Table):
    """What is measured."""

    decoder: Positive
    """Training images that ridge regressions are solved on."""


class CellConfig(Table):
    """A cell."""

    features: FeaturesConfig
    """Where the layers come from."""
    concat: FusionConfig
    """The two branches."""
    mean: FusionConfig
    """The mean of layers."""
    residual: ResidualConfig = ResidualConfig()
    """The branch that is trained."""
    latent: LatentConfig
    """The latent."""
    training: TrainingConfig
    """Its codebook's training."""
    measures: MeasuresConfig
    """What is measured."""
    folder: str | None = None
    """Where the shards are."""

    @property
    def layers(self) -> tuple[int, ...]:
        """All layers that arms of this encoder tap. The mean is of layers of one width: a transformer's."""
        mean = self.mean.layers if self.features.encoder is None else ()
        return tuple(sorted({*self.concat.layers, *mean}))


def read_cell(run: Run, overrides: tuple[str, ...] = ()) -> CellConfig:
    """The table of a run."""
    return CellConfig.model_validate(read_tree(run.arm.recipe, (*run.arm.overrides, *overrides)).values)
