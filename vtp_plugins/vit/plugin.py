"""Offers the `vit` encoder and decoder."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_encoders(register: vtp.Register) -> None:
    """Offers `vit`."""
    register(
        "vit",
        "vtp_plugins.vit.encoder:VitEncoder",
        config="vtp_plugins.vit.config:VitEncoderConfig",
        summary="Vision transformer with class token, 2-D rotary positions and packed crops.",
    )


@vtp.hookimpl
def register_decoders(register: vtp.Register) -> None:
    """Offers `vit`."""
    register(
        "vit",
        "vtp_plugins.vit.decoder:VitDecoder",
        config="vtp_plugins.vit.config:VitDecoderConfig",
        summary="Vision transformer on the latent map, pixel shuffle to the image.",
    )
