"""Offers the evaluator `knn`. Imports no torch."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_evaluators(register: Register) -> None:
    """Registers `knn`."""
    register(
        "knn",
        "vtp_plugins.evaluate_knn.evaluator:Knn",
        config="vtp_plugins.evaluate_knn.config:KnnConfig",
        summary="Accuracy of the nearest training images in feature space, beside raw pixels.",
    )
