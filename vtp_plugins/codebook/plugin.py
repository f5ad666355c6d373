"""What this plugin offers: the command `vtp codebook`."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_commands(register: vtp.Register) -> None:
    """Offers `codebook`."""
    register(
        "codebook",
        "vtp_plugins.codebook.command:codebook",
        summary="Predict the use of a codebook from an encoder's features, before any training.",
    )
