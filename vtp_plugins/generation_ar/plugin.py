"""Registers ``generation_ar``. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_objectives(register: vtp.Register) -> None:
    """An autoregressive transformer on codes."""
    register(
        "generation_ar",
        "vtp_plugins.generation_ar.objective:GenerationAr",
        config="vtp_plugins.generation_ar.config:GenerationArConfig",
        summary="an autoregressive transformer on the codes of a discrete tokenizer",
    )
