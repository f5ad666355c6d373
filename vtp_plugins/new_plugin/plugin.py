"""What this plugin offers: the command `vtp new-plugin`."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_commands(register: vtp.Register) -> None:
    """Offers `new-plugin`."""
    register(
        "new-plugin",
        "vtp_plugins.new_plugin.command:new_plugin",
        summary="Write the files of a new plugin.",
    )
