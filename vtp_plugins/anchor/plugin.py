"""Registers ``anchor``."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_objectives(register: vtp.Register) -> None:
    """The anchor of features."""
    register(
        "anchor",
        "vtp_plugins.anchor.objective:Anchor",
        config="vtp_plugins.anchor.config:AnchorConfig",
        summary="features of an adapted encoder near those of a frozen copy",
    )
