"""Registers ``kl``."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_bottlenecks(register: vtp.Register) -> None:
    """The KL bottleneck."""
    register(
        "kl",
        "vtp_plugins.kl.bottleneck:KlBottleneck",
        config="vtp_plugins.kl.config:KlConfig",
        summary="Gaussian latent, sampled in training, with a KL term towards the standard normal.",
    )
