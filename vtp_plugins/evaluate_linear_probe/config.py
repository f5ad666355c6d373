"""Settings of the evaluator `linear_probe`. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from vtp_core.config import EvaluatorConfig

Strength = Annotated[float, Field(gt=0)]


class LinearProbeConfig(EvaluatorConfig):
    """A table ``[evaluators.NAME]`` with ``use = "linear_probe"``."""

    protocols = {
        "probe-last-layer-v1": {"features": "last_layer"},
        "probe-latent-mean-v1": {"features": "latent"},
        "probe-latent-grid-v1": {"features": "latent_map"},
    }

    use: Literal["linear_probe"] = "linear_probe"
    """This evaluator."""
    features: Literal["cls", "patches", "cls_patches", "last_layer", "latent", "latent_map"] = "cls_patches"
    """Features: class token, mean patch token, both, those of the last layer (both, or the mean patch token
    of an encoder without class token), mean latent vector, or whole latent map. The last three are the
    protocols `probe-last-layer-v1`, `probe-latent-mean-v1` and `probe-latent-grid-v1`."""
    strengths: Annotated[tuple[Strength, ...], Field(min_length=1)] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """L2 penalties; one is selected on a fifth of the training set, never on the held-out set. A note says
    so if it lies at an end of the list and one beyond may be better."""
