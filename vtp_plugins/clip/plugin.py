"""Registers ``clip``."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_objectives(register: Register) -> None:
    """The contrastive loss."""
    register(
        "clip",
        "vtp_plugins.clip.objective:Clip",
        config="vtp_plugins.clip.config:ClipConfig",
        summary="image-text contrast, softmax over the global batch",
    )
