"""What this plugin offers: the command `vtp scale`."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_commands(register: vtp.Register) -> None:
    """Offers `scale`."""
    register(
        "scale",
        "vtp_plugins.scale.command:scale",
        summary="Train a grid of recipes; fit metrics against training FLOPs.",
    )
