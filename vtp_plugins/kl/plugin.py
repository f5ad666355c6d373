"""Registers ``kl``."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_bottlenecks(register: Register) -> None:
    """The KL bottleneck."""
    register(
        "kl",
        "vtp_plugins.kl.bottleneck:KlBottleneck",
        config="vtp_plugins.kl.config:KlConfig",
        summary="Gaussian latent, sampled in training, with a KL term towards the standard normal.",
    )
