"""Offers the `titok` encoder and decoder, and the format of its published files."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_encoders(register: vtp.Register) -> None:
    """Offers `titok`."""
    register(
        "titok",
        "vtp_plugins.titok.encoder:TiTokEncoder",
        config="vtp_plugins.titok.config:TiTokEncoderConfig",
        summary="TiTok's encoder: an image as a row of tokens without places; one image size only.",
    )


@vtp.hookimpl
def register_decoders(register: vtp.Register) -> None:
    """Offers `titok`."""
    register(
        "titok",
        "vtp_plugins.titok.decoder:TiTokDecoder",
        config="vtp_plugins.titok.config:TiTokDecoderConfig",
        summary="TiTok's decoder: a row of tokens to an image in [0, 1].",
    )


@vtp.hookimpl
def register_formats(register: vtp.Register) -> None:
    """Offers `titok`."""
    register(
        "titok",
        "vtp_plugins.titok.format:TiTokFormat",
        summary="TiTok of bytedance/1d-tokenizer: its weights and configuration under their own names.",
    )
