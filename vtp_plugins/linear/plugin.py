"""Registers ``linear``."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_bottlenecks(register: Register) -> None:
    """The linear bottleneck."""
    register(
        "linear",
        "vtp_plugins.linear.bottleneck:LinearBottleneck",
        config="vtp_plugins.linear.config:LinearConfig",
        summary="One bias-free linear layer from the encoder's width to the latent channels.",
    )
