"""Offers the `diffusers` format, and the networks of diffusers' autoencoders as components."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_formats(register: vtp.Register) -> None:
    """Offers `diffusers`."""
    register(
        "diffusers",
        "vtp_plugins.diffusers.format:DiffusersFormat",
        summary="Folders of diffusers' autoencoders: AutoencoderKL, KLFlux2, VQModel, DC, Tiny, RAE.",
    )


@vtp.hookimpl
def register_encoders(register: vtp.Register) -> None:
    """Offers `diffusers`."""
    register(
        "diffusers",
        "vtp_plugins.diffusers.encoder:DiffusersEncoder",
        config="vtp_plugins.diffusers.config:DiffusersEncoderConfig",
        summary="Encoder of an autoencoder of diffusers; no class token, no masks.",
    )


@vtp.hookimpl
def register_bottlenecks(register: vtp.Register) -> None:
    """Offers `diffusers`."""
    register(
        "diffusers",
        "vtp_plugins.diffusers.bottleneck:DiffusersBottleneck",
        config="vtp_plugins.diffusers.config:DiffusersBottleneckConfig",
        summary="Latent of an autoencoder of diffusers: Gaussian, deterministic or of one codebook.",
    )


@vtp.hookimpl
def register_decoders(register: vtp.Register) -> None:
    """Offers `diffusers`."""
    register(
        "diffusers",
        "vtp_plugins.diffusers.decoder:DiffusersDecoder",
        config="vtp_plugins.diffusers.config:DiffusersDecoderConfig",
        summary="Decoder of an autoencoder of diffusers.",
    )
