"""Offers the evaluator `linear_probe`. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_evaluators(register: vtp.Register) -> None:
    """Registers `linear_probe`."""
    register(
        "linear_probe",
        "vtp_plugins.evaluate_linear_probe.evaluator:LinearProbe",
        config="vtp_plugins.evaluate_linear_probe.config:LinearProbeConfig",
        summary="Accuracy of a linear classifier on frozen features, beside raw pixels.",
    )
