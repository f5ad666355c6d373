"""Offers the evaluator `zero_shot`. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_evaluators(register: vtp.Register) -> None:
    """Registers `zero_shot`."""
    register(
        "zero_shot",
        "vtp_plugins.evaluate_zero_shot.evaluator:ZeroShot",
        config="vtp_plugins.evaluate_zero_shot.config:ZeroShotConfig",
        summary="Classification by the class names alone, beside chance.",
    )
