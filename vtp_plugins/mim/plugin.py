"""Registers ``mim``."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_objectives(register: Register) -> None:
    """Masked image modelling."""
    register(
        "mim",
        "vtp_plugins.mim.objective:Mim",
        config="vtp_plugins.mim.config:MimConfig",
        summary="masked patches predict the teacher's tokens (iBOT)",
    )
