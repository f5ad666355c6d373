"""Offers the evaluator `diffusability`. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_evaluators(register: vtp.Register) -> None:
    """Registers `diffusability`."""
    register(
        "diffusability",
        "vtp_plugins.evaluate_diffusability.evaluator:Diffusability",
        config="vtp_plugins.evaluate_diffusability.config:DiffusabilityConfig",
        summary="How hard the latents are to generate, from the latents alone; trains nothing.",
    )
