"""What this plugin offers: the command `vtp data`."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_commands(register: vtp.Register) -> None:
    """Offers `data`."""
    register("data", "vtp_plugins.data_check.command:data", summary="Check data before training on it.")
