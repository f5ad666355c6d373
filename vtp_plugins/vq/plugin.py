"""Registers ``vq``."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_bottlenecks(register: vtp.Register) -> None:
    """The quantised bottleneck."""
    register(
        "vq",
        "vtp_plugins.vq.bottleneck:VqBottleneck",
        config="vtp_plugins.vq.config:VqConfig",
        summary="Vector quantisation: codebooks, product, residual, IBQ, SimVQ, FSQ, LFQ or BSQ.",
    )
