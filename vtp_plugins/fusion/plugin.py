"""Registers ``fusion``."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_bottlenecks(register: vtp.Register) -> None:
    """The continuous latent of several layers."""
    register(
        "fusion",
        "vtp_plugins.fusion.bottleneck:FusionBottleneck",
        config="vtp_plugins.fusion.config:FusionBottleneckConfig",
        summary="Layers of the encoder fused into a continuous latent (DINO-Tok, RAE, RAEv2, SVG).",
    )
