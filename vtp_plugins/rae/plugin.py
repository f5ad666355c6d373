"""Offers the `rae` format and the networks that it builds."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_formats(register: vtp.Register) -> None:
    """Offers `rae`."""
    register(
        "rae",
        "vtp_plugins.rae.format:RaeFormat",
        summary="Stage 1 of RAE: its configuration with encoder, decoder and statistics; read only.",
    )


@vtp.hookimpl
def register_encoders(register: vtp.Register) -> None:
    """Offers `rae`."""
    register(
        "rae",
        "vtp_plugins.rae.encoder:RaeEncoder",
        config="vtp_plugins.rae.config:RaeEncoderConfig",
        summary="DINOv2 with registers, SigLIP2 or MAE, as RAE calls them; for published models.",
    )


@vtp.hookimpl
def register_bottlenecks(register: vtp.Register) -> None:
    """Offers `rae`."""
    register(
        "rae",
        "vtp_plugins.rae.bottleneck:RaeBottleneck",
        config="vtp_plugins.rae.config:RaeConfig",
        summary="Normalises each channel at each position by stored statistics.",
    )


@vtp.hookimpl
def register_decoders(register: vtp.Register) -> None:
    """Offers `rae`."""
    register(
        "rae",
        "vtp_plugins.rae.decoder:RaeDecoder",
        config="vtp_plugins.rae.config:RaeDecoderConfig",
        summary="RAE's ViT decoder with a class token and stored positions.",
    )
