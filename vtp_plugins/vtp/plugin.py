"""Offers the `vtp` format."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_formats(register: Register) -> None:
    """Offers `vtp`."""
    register(
        "vtp",
        "vtp_plugins.vtp.format:VtpFormat",
        summary="The published VTP models: config.json and model.safetensors under their own names.",
    )
