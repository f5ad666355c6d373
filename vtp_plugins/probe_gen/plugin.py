"""Offers the command `vtp probe-gen` and the evaluator `probe_gen`. Imports no torch."""

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


@vtp.hookimpl
def register_evaluators(register: vtp.Register) -> None:
    """Registers `probe_gen`."""
    register(
        "probe_gen",
        "vtp_plugins.probe_gen.evaluator:ProbeGen",
        config="vtp_plugins.probe_gen.config:ProbeGenConfig",
        summary="How well a small generator learns the latents; trains one for minutes, so only if named.",
    )
