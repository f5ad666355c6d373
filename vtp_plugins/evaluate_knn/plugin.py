"""Offers the evaluator `knn`. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_evaluators(register: vtp.Register) -> None:
    """Registers `knn`."""
    register(
        "knn",
        "vtp_plugins.evaluate_knn.evaluator:Knn",
        config="vtp_plugins.evaluate_knn.config:KnnConfig",
        summary="Accuracy of the nearest training images in feature space, beside raw pixels.",
    )
