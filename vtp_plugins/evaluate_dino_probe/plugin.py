"""Offers the evaluator `dino_probe`. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_evaluators(register: vtp.Register) -> None:
    """Registers `dino_probe`."""
    register(
        "dino_probe",
        "vtp_plugins.evaluate_dino_probe.evaluator:DinoProbe",
        config="vtp_plugins.evaluate_dino_probe.config:DinoProbeConfig",
        summary="Accuracy of the best of many linear heads trained by SGD on an encoder's last blocks.",
    )
