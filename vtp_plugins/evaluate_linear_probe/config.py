"""Settings of the evaluator `linear_probe`. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from vtp_core.config import ComponentConfig

Strength = Annotated[float, Field(gt=0)]


class LinearProbeConfig(ComponentConfig):
    """A table ``[evaluators.NAME]`` with ``use = "linear_probe"``."""

    use: Literal["linear_probe"] = "linear_probe"
    """This evaluator."""
    features: Literal["cls", "patches", "cls_patches", "latent", "latent_map"] = "cls_patches"
    """What is read: class token, mean patch, both, the mean latent vector, or the whole latent map."""
    strengths: Annotated[tuple[Strength, ...], Field(min_length=1)] = (1e-3, 1e-2, 1e-1, 1.0)
    """L2 penalties to choose from, on a fifth of the training set put aside; never on the held-out set."""
