"""Offers the `vtp` format."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_formats(register: vtp.Register) -> None:
    """Offers `vtp`."""
    register(
        "vtp",
        "vtp_plugins.vtp.format:VtpFormat",
        summary="The published VTP models: config.json and model.safetensors under their own names.",
    )
