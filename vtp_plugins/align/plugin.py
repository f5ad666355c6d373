"""Registers ``align``."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_objectives(register: vtp.Register) -> None:
    """The alignment of latents."""
    register(
        "align",
        "vtp_plugins.align.objective:Align",
        config="vtp_plugins.align.config:AlignConfig",
        summary="VA-VAE's alignment of latents with a frozen network: margins on cosines and distances",
    )
