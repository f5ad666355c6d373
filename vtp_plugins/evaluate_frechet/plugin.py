"""Offers the evaluator `frechet`. Imports no torch."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_evaluators(register: Register) -> None:
    """Registers `frechet`."""
    register(
        "frechet",
        "vtp_plugins.evaluate_frechet.evaluator:Frechet",
        config="vtp_plugins.evaluate_frechet.config:FrechetConfig",
        summary="Fréchet distance of reconstructions to originals on the features of a timm network.",
    )
