"""Offers the evaluators `frechet` and `frechet_generated`. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_evaluators(register: vtp.Register) -> None:
    """Registers `frechet` and `frechet_generated`."""
    register(
        "frechet",
        "vtp_plugins.evaluate_frechet.evaluator:Frechet",
        config="vtp_plugins.evaluate_frechet.config:FrechetConfig",
        summary="Fréchet and kernel distance, precision and recall of reconstructions, on a timm network.",
    )
    register(
        "frechet_generated",
        "vtp_plugins.evaluate_frechet.generated:FrechetGenerated",
        config="vtp_plugins.evaluate_frechet.config:FrechetGeneratedConfig",
        summary="Fréchet and kernel distance, precision and recall of generated samples, on a timm network.",
    )
