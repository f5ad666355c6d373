"""What this plugin offers: the command `vtp plan`."""

from vtp_core.plugins import Register, hookimpl

vtp_api = 2


@hookimpl
def register_commands(register: Register) -> None:
    """Offers `plan`."""
    register(
        "plan",
        "vtp_plugins.plan.command:plan",
        summary="Print what a recipe would run: groups, forwards, sizes, memory.",
    )
