"""Registers ``linear``."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_bottlenecks(register: vtp.Register) -> None:
    """The linear bottleneck."""
    register(
        "linear",
        "vtp_plugins.linear.bottleneck:LinearBottleneck",
        config="vtp_plugins.linear.config:LinearConfig",
        summary="One bias-free linear layer from the encoder's width to the latent channels.",
    )
