"""Offers the `va_vae` format."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_formats(register: vtp.Register) -> None:
    """Offers `va_vae`."""
    register(
        "va_vae",
        "vtp_plugins.va_vae.format:VaVaeFormat",
        summary="VA-VAE of LightningDiT: its checkpoint with latents_stats, read as `cnn` and `kl`.",
    )
