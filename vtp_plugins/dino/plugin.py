"""Registers ``dino``."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_objectives(register: Register) -> None:
    """Self-distillation."""
    register(
        "dino",
        "vtp_plugins.dino.objective:Dino",
        config="vtp_plugins.dino.config:DinoConfig",
        summary="self-distillation of class tokens between crops",
    )
