"""Settings of the evaluator `reconstruction`. Imports no torch."""

from typing import Literal

from vtp_core.config import ComponentConfig


class ReconstructionConfig(ComponentConfig):
    """A table ``[evaluators.NAME]`` with ``use = "reconstruction"``."""

    use: Literal["reconstruction"] = "reconstruction"
    """This evaluator."""
    lpips: Literal["lpips_alex", "lpips_vgg", "lpips_squeeze", "lpips_squeeze_ndf"] | None = None
    """Network of LPIPS, which is measured only if one is named; papers mostly use ``lpips_alex`` or
    ``lpips_vgg``. ``lpips_squeeze_ndf``: LPIPS' heads on the SqueezeNet of the package ndf, not LPIPS."""
    lpips_weights: str | None = None
    """File with the trunk's weights, under torchvision's names; default: an installed package, else
    torchvision's hub. ``"random"`` is an untrained trunk for tests, whose distances mean nothing."""
