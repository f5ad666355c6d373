"""Offers the command `vtp bench`. Imports no torch."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_commands(register: Register) -> None:
    """Offers `bench`."""
    register(
        "bench",
        "vtp_plugins.bench.command:bench",
        summary="Time operators and tokenizers against every installed peer.",
    )
