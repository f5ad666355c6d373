"""What this plugin offers: the command `vtp data`."""

from vtp_core.plugins import Register, hookimpl

vtp_api = 2


@hookimpl
def register_commands(register: Register) -> None:
    """Offers `data`."""
    register("data", "vtp_plugins.data_check.command:data", summary="Check data before training on it.")
