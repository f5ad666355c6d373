"""Offers the command `vtp probe-gen`. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_commands(register: vtp.Register) -> None:
    """Registers `probe-gen`."""
    register(
        "probe-gen",
        "vtp_plugins.probe_gen.command:probe_gen",
        summary="Rank tokenizers by how well a small generator learns their latents.",
    )
