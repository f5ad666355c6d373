"""Recipe tables of the quantisers and of the bottleneck `vq`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, model_validator

from vtp_core.config import ComponentConfig, Table

Positive = Annotated[int, Field(gt=0)]
Codes = Annotated[int, Field(gt=0, le=2**20)]
Factor = Annotated[float, Field(ge=0)]


class CodebookConfig(Table):
    """Keys of every quantiser with a codebook of vectors."""

    codes: Codes = 1024
    """Codes K."""
    through: Literal["straight", "rotation"] = "straight"
    """Gradient to the encoder: straight-through, or the rotation trick (arXiv 2410.06424)."""
    commitment: Factor = 0.25
    """Factor on the mean squared distance that pulls vectors to their codes; 0 for frozen features."""
    initialise: Literal["kmeans", "data", "random"] = "kmeans"
    """Initial codes: k-means++ or rows of the calibration data, or random numbers."""
    window: Positive = 100
    """Steps that usage, perplexity and age of codes look back."""
    alarm: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Usage below which a warning is logged; 0: never."""


class EmaConfig(CodebookConfig):
    """``quantizer = { kind = "ema" }``: codes follow the mean of their vectors."""

    kind: Literal["ema"] = "ema"
    """Moving average (VQ-VAE, appendix A.1)."""
    metric: Literal["l2", "cosine"] = "l2"
    """Squared distance, or cosine: vectors and codes on the unit sphere (ViT-VQGAN)."""
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Of the moving averages."""
    eps: Annotated[float, Field(gt=0)] = 1e-5
    """Laplace smoothing of the counts."""
    revive: bool = True
    """Whether dead codes take vectors of the data."""
    dead_below: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """A code is dead below this fraction of an even share of the vectors."""
    revive_every: Positive = 10
    """Steps between revivals."""


class LearnedConfig(CodebookConfig):
    """``quantizer = { kind = "codebook_loss" }``: codes learn by gradient descent (VQ-VAE, equation 3)."""

    kind: Literal["codebook_loss"]
    """The codebook loss."""
    codebook: Factor = 1.0
    """Factor on the codebook loss."""
    metric: Literal["l2", "cosine"] = "l2"
    """Squared distance, or cosine."""


class SimVqConfig(CodebookConfig):
    """``quantizer = { kind = "simvq" }``: frozen random codes under one learned matrix (arXiv 2411.02038)."""

    kind: Literal["simvq"]
    """SimVQ."""
    codebook: Factor = 1.0
    """Factor on the codebook loss, which trains the matrix."""


class IbqConfig(CodebookConfig):
    """``quantizer = { kind = "ibq" }``: index backpropagation (arXiv 2412.02692)."""

    kind: Literal["ibq"]
    """IBQ."""
    codebook: Factor = 1.0
    """Factor on the double quantisation loss's second half, which pulls codes to vectors."""
    entropy: Factor = 0.05
    """Factor on the entropy term: sure of each vector, even over all."""
    temperature: Annotated[float, Field(gt=0)] = 0.01
    """Of the distribution in the entropy term."""


class LevelsConfig(Table):
    """Keys of quantisers that round each channel."""

    kind: str
    """The quantiser."""
    levels: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = (8, 5, 5, 5)
    """Values of each channel; their product is the codebook size."""
    window: Positive = 100
    """Steps that the meters look back."""
    alarm: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Usage below which a warning is logged; 0: never."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        product = 1
        for level in self.levels:
            product *= level
        if product > 2**20:
            raise ValueError(f"levels: {product} codes; at most {2**20}")
        return self


class FsqConfig(LevelsConfig):
    """``quantizer = { kind = "fsq" }``: finite scalar quantisation (arXiv 2309.15505)."""

    kind: Literal["fsq"]
    """FSQ."""


class BinaryConfig(Table):
    """``quantizer = { kind = "lfq" | "bsq" }``: one bit a channel."""

    kind: Literal["lfq", "bsq"]
    """Lookup-free (arXiv 2310.05737), or on the unit sphere (arXiv 2406.07548)."""
    bits: Annotated[int, Field(ge=1, le=20)] = 10
    """Channels; the codebook has 2^bits codes."""
    commitment: Factor = 0.25
    """Factor on the squared distance to the code."""
    entropy: Factor = 0.1
    """Factor on the entropy term: sure of each bit, even over all vectors."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the bits' probabilities in the entropy term."""
    window: Positive = 100
    """Steps that the meters look back."""
    alarm: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Usage below which a warning is logged; 0: never."""


class ResidualVqConfig(CodebookConfig):
    """``quantizer = { kind = "library", name = "ResidualVQ" }`` of vector-quantize-pytorch.

    Each stage codes what the earlier ones left (SoundStream, arXiv 2107.03312, algorithm 1); codes learn by
    gradient descent.
    """

    kind: Literal["library"]
    """A class of vector-quantize-pytorch (extra ``vq-library``)."""
    name: Literal["ResidualVQ"]
    """The class."""
    stages: Positive = 4
    """Codebooks, one after the other: Q codes a vector."""
    codebook: Factor = 1.0
    """Factor on the codebook loss, a sum over the stages as the commitment loss is."""


class ResidualSimVqConfig(CodebookConfig):
    """``quantizer = { kind = "library", name = "ResidualSimVQ" }``: stages of SimVQ."""

    kind: Literal["library"]
    """A class of vector-quantize-pytorch (extra ``vq-library``)."""
    name: Literal["ResidualSimVQ"]
    """The class."""
    stages: Positive = 4
    """Codebooks, one after the other."""
    codebook: Factor = 1.0
    """Factor on the codebook loss, which trains the matrices."""
    initialise: Literal["random"] = "random"
    """The frozen codes are random."""


class ResidualFsqConfig(LevelsConfig):
    """``quantizer = { kind = "library", name = "ResidualFSQ" }``: stages of finite scalar quantisation."""

    kind: Literal["library"]
    """A class of vector-quantize-pytorch (extra ``vq-library``)."""
    name: Literal["ResidualFSQ"]
    """The class."""
    stages: Positive = 4
    """Stages; each one's steps are finer by the number of levels."""


_GROUPED = 'is { kind = "product", each = { kind = "library", name = "%s" } }'
_LEFT_OUT = {
    "VectorQuantize": 'moves its codebook in `forward`; take kind = "ema" or "codebook_loss"',
    "SimVQ": 'is kind = "simvq"',
    "FSQ": 'is kind = "fsq"',
    "LFQ": 'is kind = "lfq" or "bsq"',
    "GroupedResidualVQ": _GROUPED % "ResidualVQ",
    "GroupedResidualFSQ": _GROUPED % "ResidualFSQ",
    "ResidualLFQ": 'exchanges an entropy between ranks in `forward`; take name = "ResidualFSQ"',
    "GroupedResidualLFQ": 'exchanges an entropy between ranks in `forward`; take name = "ResidualFSQ"',
    "LatentQuantize": 'has indices that do not give its learned values back; take kind = "fsq"',
    "RandomProjectionQuantizer": 'has codes and no vectors; take kind = "simvq"',
    "HierarchicalVQ": 'codes whole maps, not single vectors; take name = "ResidualVQ"',
    "EvoLFQ": 'is a whole autoencoder; take kind = "lfq"',
    "FSP": 'draws at random in `forward`; take kind = "fsq"',
    "BinaryMapper": 'draws at random in `forward`; take kind = "bsq"',
}


class LeftOutConfig(Table):
    """Other classes of vector-quantize-pytorch, which are refused: why, and what to take."""

    model_config = ConfigDict(extra="allow")

    kind: Literal["library"]
    """A class of vector-quantize-pytorch."""
    name: Literal[
        "VectorQuantize",
        "SimVQ",
        "FSQ",
        "LFQ",
        "GroupedResidualVQ",
        "GroupedResidualFSQ",
        "ResidualLFQ",
        "GroupedResidualLFQ",
        "LatentQuantize",
        "RandomProjectionQuantizer",
        "HierarchicalVQ",
        "EvoLFQ",
        "FSP",
        "BinaryMapper",
    ]
    """The class."""

    @model_validator(mode="after")
    def _refused(self) -> Self:
        raise ValueError(f"{self.name} of vector-quantize-pytorch {_LEFT_OUT[self.name]}")


LibraryConfig = Annotated[
    ResidualVqConfig | ResidualSimVqConfig | ResidualFsqConfig | LeftOutConfig, Discriminator("name")
]
Single = Annotated[
    EmaConfig | LearnedConfig | SimVqConfig | IbqConfig | FsqConfig | BinaryConfig | LibraryConfig,
    Discriminator("kind"),
]


class ProductConfig(Table):
    """``quantizer = { kind = "product" }``: channel groups with a codebook each (UniTok's multi-codebook)."""

    kind: Literal["product"]
    """Product quantisation."""
    groups: Positive = 8
    """Groups of equally many channels."""
    each: Single = EmaConfig(codes=4096)
    """The quantiser of every group."""


QuantizerConfig = Annotated[
    EmaConfig
    | LearnedConfig
    | SimVqConfig
    | IbqConfig
    | FsqConfig
    | BinaryConfig
    | LibraryConfig
    | ProductConfig,
    Discriminator("kind"),
]


class VqConfig(ComponentConfig):
    """``[bottleneck] use = "vq"``: a projection, a quantiser."""

    use: str = "vq"
    """Name of the component."""
    channels: Positive | None = None
    """Latent channels d that are quantised. None: the number of levels or bits, else the encoder's width."""
    project: bool = True
    """Whether a linear layer leads to the latent; False takes the encoder's channels as they are."""
    quantizer: QuantizerConfig = EmaConfig()
    """The quantiser; its `kind` is ema, codebook_loss, simvq, ibq, fsq, lfq, bsq, product or library."""
    calibration_rows: Annotated[int, Field(ge=0)] = 256
    """Images from which the codebook is initialised before step 0; 0: random codes."""
    sample_tokens: Positive = 16
    """Vectors of each image that serve the initialisation and the revival of dead codes."""
    sample_rows: Positive = 64
    """Images of a step whose vectors serve the revival."""
