"""Offers `ntxent.simclr`."""

from vtp_core.plugins import Register, hookimpl

vtp_api = 1


@hookimpl
def register_objectives(register: Register) -> None:
    """Offers the objective; nothing is imported until a recipe uses it."""
    register(
        "simclr",
        "vtp_plugin_ntxent.objective:Simclr",
        config="vtp_plugin_ntxent.config:SimclrConfig",
        summary="NT-Xent between two crops of an image (SimCLR).",
    )
