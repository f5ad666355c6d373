"""Offers the evaluator `frechet`. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_evaluators(register: vtp.Register) -> None:
    """Registers `frechet`."""
    register(
        "frechet",
        "vtp_plugins.evaluate_frechet.evaluator:Frechet",
        config="vtp_plugins.evaluate_frechet.config:FrechetConfig",
        summary="Fréchet distance of reconstructions to originals on the features of a timm network.",
    )
