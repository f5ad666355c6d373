"""Offers the `cnn` encoder and decoder."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_encoders(register: vtp.Register) -> None:
    """Offers `cnn`."""
    register(
        "cnn",
        "vtp_plugins.cnn.encoder:CnnEncoder",
        config="vtp_plugins.cnn.config:CnnEncoderConfig",
        summary="Convolutional encoder of latent diffusion; no class token, no masks.",
    )


@vtp.hookimpl
def register_decoders(register: vtp.Register) -> None:
    """Offers `cnn`."""
    register(
        "cnn",
        "vtp_plugins.cnn.decoder:CnnDecoder",
        config="vtp_plugins.cnn.config:CnnDecoderConfig",
        summary="Convolutional decoder of latent diffusion.",
    )
