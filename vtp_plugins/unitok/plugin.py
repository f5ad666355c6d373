"""Offers the `unitok` encoder, bottleneck and decoder, and the format of its published file."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_encoders(register: vtp.Register) -> None:
    """Offers `unitok`."""
    register(
        "unitok",
        "vtp_plugins.unitok.encoder:UniTokEncoder",
        config="vtp_plugins.unitok.config:UniTokEncoderConfig",
        summary="UniTok's encoder, ViTamin: convolutions, then transformer blocks; no class token, no masks.",
    )


@vtp.hookimpl
def register_bottlenecks(register: vtp.Register) -> None:
    """Offers `unitok`."""
    register(
        "unitok",
        "vtp_plugins.unitok.bottleneck:UniTokBottleneck",
        config="vtp_plugins.unitok.config:UniTokBottleneckConfig",
        summary="UniTok's bottleneck: a projection by attention, then many small codebooks.",
    )


@vtp.hookimpl
def register_decoders(register: vtp.Register) -> None:
    """Offers `unitok`."""
    register(
        "unitok",
        "vtp_plugins.unitok.decoder:UniTokDecoder",
        config="vtp_plugins.unitok.config:UniTokDecoderConfig",
        summary="UniTok's decoder: transformer blocks, then ViTamin's convolutions in reverse.",
    )


@vtp.hookimpl
def register_formats(register: vtp.Register) -> None:
    """Offers `unitok`."""
    register(
        "unitok",
        "vtp_plugins.unitok.format:UniTokFormat",
        summary="UniTok of FoundationVision: its checkpoint, or its tensors with its settings as JSON.",
    )
