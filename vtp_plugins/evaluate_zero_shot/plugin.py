"""Offers the evaluator `zero_shot`. Imports no torch."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_evaluators(register: Register) -> None:
    """Registers `zero_shot`."""
    register(
        "zero_shot",
        "vtp_plugins.evaluate_zero_shot.evaluator:ZeroShot",
        config="vtp_plugins.evaluate_zero_shot.config:ZeroShotConfig",
        summary="Classification by the class names alone, beside chance.",
    )
