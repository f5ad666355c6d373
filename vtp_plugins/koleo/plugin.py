"""Registers ``koleo``."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_objectives(register: Register) -> None:
    """The regulariser."""
    register(
        "koleo",
        "vtp_plugins.koleo.objective:Koleo",
        config="vtp_plugins.koleo.config:KoleoConfig",
        summary="class tokens spread over the sphere",
    )
