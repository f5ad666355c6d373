"""Registers ``l1`` and ``l2``."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_objectives(register: Register) -> None:
    """The two pixel losses."""
    config = "vtp_plugins.reconstruction.config:ReconstructionConfig"
    register(
        "l1", "vtp_plugins.reconstruction.objective:L1", config=config, summary="mean absolute pixel error"
    )
    register(
        "l2", "vtp_plugins.reconstruction.objective:L2", config=config, summary="mean squared pixel error"
    )
