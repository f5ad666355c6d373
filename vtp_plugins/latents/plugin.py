"""Registers ``latents``. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_sources(register: vtp.Register) -> None:
    """The source."""
    register(
        "latents",
        "vtp_plugins.latents.source:Latents",
        config="vtp_plugins.latents.config:LatentsConfig",
        summary="cached latents of a tokenizer, encoded once from another source or read from files",
    )
