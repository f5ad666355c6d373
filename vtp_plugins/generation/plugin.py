"""Registers ``generation``."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_objectives(register: vtp.Register) -> None:
    """Flow matching on latents."""
    register(
        "generation",
        "vtp_plugins.generation.objective:Generation",
        config="vtp_plugins.generation.config:GenerationConfig",
        summary="flow matching on latents by a diffusion transformer (LightningDiT)",
    )
