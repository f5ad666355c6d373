"""Offers the evaluator `linear_probe`. Imports no torch."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_evaluators(register: Register) -> None:
    """Registers `linear_probe`."""
    register(
        "linear_probe",
        "vtp_plugins.evaluate_linear_probe.evaluator:LinearProbe",
        config="vtp_plugins.evaluate_linear_probe.config:LinearProbeConfig",
        summary="Accuracy of a linear classifier on frozen features, beside raw pixels.",
    )
