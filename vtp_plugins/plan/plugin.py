"""What this plugin offers: the command `vtp plan`."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_commands(register: vtp.Register) -> None:
    """Offers `plan`."""
    register(
        "plan",
        "vtp_plugins.plan.command:plan",
        summary="Print what a recipe would run: groups, forwards, sizes, memory.",
    )
