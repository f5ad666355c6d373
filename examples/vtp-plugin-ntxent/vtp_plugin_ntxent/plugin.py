"""Offers `ntxent.simclr`."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_objectives(register: vtp.Register) -> None:
    """Offers the objective; nothing is imported until a recipe uses it."""
    register(
        "simclr",
        "vtp_plugin_ntxent.objective:Simclr",
        config="vtp_plugin_ntxent.config:SimclrConfig",
        summary="NT-Xent between two crops of an image (SimCLR).",
    )
