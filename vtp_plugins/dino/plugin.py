"""Registers ``dino``."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_objectives(register: vtp.Register) -> None:
    """Self-distillation."""
    register(
        "dino",
        "vtp_plugins.dino.objective:Dino",
        config="vtp_plugins.dino.config:DinoConfig",
        summary="self-distillation of class tokens between crops",
    )
