"""Offers the `vit` encoder and decoder."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_encoders(register: Register) -> None:
    """Offers `vit`."""
    register(
        "vit",
        "vtp_plugins.vit.encoder:VitEncoder",
        config="vtp_plugins.vit.config:VitEncoderConfig",
        summary="Vision transformer with class token, 2-D rotary positions and packed crops.",
    )


@hookimpl
def register_decoders(register: Register) -> None:
    """Offers `vit`."""
    register(
        "vit",
        "vtp_plugins.vit.decoder:VitDecoder",
        config="vtp_plugins.vit.config:VitDecoderConfig",
        summary="Vision transformer on the latent map, pixel shuffle to the image.",
    )
