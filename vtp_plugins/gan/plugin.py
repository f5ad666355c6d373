"""Registers ``gan``."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_objectives(register: Register) -> None:
    """The adversarial loss."""
    register(
        "gan",
        "vtp_plugins.gan.objective:Gan",
        config="vtp_plugins.gan.config:GanConfig",
        summary="adversarial loss with a PatchGAN, frozen-feature or residual critic",
    )
