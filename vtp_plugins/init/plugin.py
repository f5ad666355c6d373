"""What this plugin offers: the command `vtp init`."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_commands(register: vtp.Register) -> None:
    """Offers `init`."""
    register("init", "vtp_plugins.init.command:init", summary="Look at images and write a recipe for them.")
