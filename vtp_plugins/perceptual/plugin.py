"""Registers ``perceptual``."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_objectives(register: Register) -> None:
    """The perceptual loss."""
    register(
        "perceptual",
        "vtp_plugins.perceptual.objective:Perceptual",
        config="vtp_plugins.perceptual.config:PerceptualConfig",
        summary="distance in a pretrained network's features (LPIPS, timm)",
    )
