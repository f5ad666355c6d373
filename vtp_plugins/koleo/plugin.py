"""Registers ``koleo``."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_objectives(register: vtp.Register) -> None:
    """The regulariser."""
    register(
        "koleo",
        "vtp_plugins.koleo.objective:Koleo",
        config="vtp_plugins.koleo.config:KoleoConfig",
        summary="class tokens spread over the sphere",
    )
