"""Registers ``l1`` and ``l2``."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_objectives(register: vtp.Register) -> None:
    """The two pixel losses."""
    config = "vtp_plugins.reconstruction.config:ReconstructionConfig"
    register(
        "l1", "vtp_plugins.reconstruction.objective:L1", config=config, summary="mean absolute pixel error"
    )
    register(
        "l2", "vtp_plugins.reconstruction.objective:L2", config=config, summary="mean squared pixel error"
    )
