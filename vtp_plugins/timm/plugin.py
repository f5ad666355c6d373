"""Offers the `timm` encoder and the format `timm`."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_encoders(register: vtp.Register) -> None:
    """Offers `timm`."""
    register(
        "timm",
        "vtp_plugins.timm.encoder:TimmEncoder",
        config="vtp_plugins.timm.config:TimmConfig",
        summary="A pretrained network of timm (DINO, SigLIP, MAE, CNNs), frozen or adapted.",
    )


@vtp.hookimpl
def register_formats(register: vtp.Register) -> None:
    """Offers `timm`."""
    register(
        "timm",
        "vtp_plugins.timm.format:TimmFormat",
        summary="The encoder for timm.create_model.",
    )
