"""Offers the `cnn` encoder and decoder."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_encoders(register: Register) -> None:
    """Offers `cnn`."""
    register(
        "cnn",
        "vtp_plugins.cnn.encoder:CnnEncoder",
        config="vtp_plugins.cnn.config:CnnEncoderConfig",
        summary="Convolutional encoder of latent diffusion; no class token, no masks.",
    )


@hookimpl
def register_decoders(register: Register) -> None:
    """Offers `cnn`."""
    register(
        "cnn",
        "vtp_plugins.cnn.decoder:CnnDecoder",
        config="vtp_plugins.cnn.config:CnnDecoderConfig",
        summary="Convolutional decoder of latent diffusion.",
    )
