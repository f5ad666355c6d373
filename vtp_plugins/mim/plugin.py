"""Registers ``mim``."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_objectives(register: vtp.Register) -> None:
    """Masked image modelling."""
    register(
        "mim",
        "vtp_plugins.mim.objective:Mim",
        config="vtp_plugins.mim.config:MimConfig",
        summary="masked patches predict the teacher's tokens (iBOT)",
    )
