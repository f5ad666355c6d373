"""Registers ``pca_vq``."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_bottlenecks(register: vtp.Register) -> None:
    """The quantised bottleneck of DINO-Tok."""
    register(
        "pca_vq",
        "vtp_plugins.pca_vq.bottleneck:PcaVqBottleneck",
        config="vtp_plugins.pca_vq.config:PcaVqConfig",
        summary="One codebook a branch, searched in global principal axes (DINO-Tok).",
    )
