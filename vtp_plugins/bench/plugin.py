"""Offers the command `vtp bench`. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_commands(register: vtp.Register) -> None:
    """Offers `bench`."""
    register(
        "bench",
        "vtp_plugins.bench.command:bench",
        summary="Time operators and tokenizers against every installed peer.",
    )
