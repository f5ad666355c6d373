"""Settings of the evaluator `diffusability`. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from vtp_core.config import ComponentConfig

Time = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class DiffusabilityConfig(ComponentConfig):
    """A table ``[evaluators.NAME]`` with ``use = "diffusability"``."""

    use: Literal["diffusability"] = "diffusability"
    """This evaluator."""
    samples: Annotated[int, Field(ge=16)] = 1024
    """Most images, those of the least hash of key and pixels; fewer where latents are large, so that at most
    2^24 numbers are kept."""
    tokens: Annotated[int, Field(ge=1)] = 4
    """Tokens of each image, drawn from its positions."""
    times: Annotated[tuple[Time, ...], Field(min_length=1)] = (0.1, 0.3, 0.5, 0.7, 0.9)
    """Times of the flow: 0 is noise, 1 the latent."""
    least_neighbours: Annotated[float, Field(gt=1)] = 4.0
    """A variance with a smaller effective number of neighbours is not reported."""
    decoded: Annotated[int, Field(ge=2)] = 256
    """Most images that are decoded with noise or other codes."""
    sigmas: tuple[Positive, ...] = (0.1, 0.3)
    """Deviations of the noise that is added before decoding, in those of each channel."""
    replaced: tuple[Fraction, ...] = (0.1, 0.3)
    """Fractions of the codes that are replaced before decoding."""
    nearest: Annotated[int, Field(ge=1)] = 16
    """A code is replaced by one of that many nearest codes of its codebook."""
    network: Annotated[str, Field(pattern=r"^timm:[A-Za-z0-9_.]+$")] | None = None
    """``timm:<name>``: also the kernel distance of those decodes to the ones without noise or other codes, on
    the pooled features of this network; None: their PSNR alone."""
    weights: str | None = None
    """File with the network's weights; default: an installed package, else the hub. ``"random"`` is an
    untrained network for tests, whose distances mean nothing."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of noise, chosen tokens, permutations and replaced codes."""
