"""Registers ``perceptual``."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_objectives(register: vtp.Register) -> None:
    """The perceptual loss."""
    register(
        "perceptual",
        "vtp_plugins.perceptual.objective:Perceptual",
        config="vtp_plugins.perceptual.config:PerceptualConfig",
        summary="distance in a pretrained network's features (LPIPS, timm)",
    )
