"""What this plugin offers: the command `vtp new-plugin`."""

from vtp_core.plugins import Register, hookimpl

vtp_api = 2


@hookimpl
def register_commands(register: Register) -> None:
    """Offers `new-plugin`."""
    register(
        "new-plugin",
        "vtp_plugins.new_plugin.command:new_plugin",
        summary="Write the files of a new plugin.",
    )
