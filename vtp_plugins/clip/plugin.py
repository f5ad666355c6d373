"""Registers ``clip``."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_objectives(register: vtp.Register) -> None:
    """The contrastive loss."""
    register(
        "clip",
        "vtp_plugins.clip.objective:Clip",
        config="vtp_plugins.clip.config:ClipConfig",
        summary="image-text contrast, softmax over the global batch",
    )
