"""Registers ``gan``."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_objectives(register: vtp.Register) -> None:
    """The adversarial loss."""
    register(
        "gan",
        "vtp_plugins.gan.objective:Gan",
        config="vtp_plugins.gan.config:GanConfig",
        summary="adversarial loss with a PatchGAN, frozen-feature or residual critic",
    )
