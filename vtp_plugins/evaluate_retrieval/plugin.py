"""Offers the evaluator `retrieval`. Imports no torch."""

from vtp_core.plugins import hookimpl
from vtp_core.plugins.hookspecs import Register

vtp_api = 2


@hookimpl
def register_evaluators(register: Register) -> None:
    """Registers `retrieval`."""
    register(
        "retrieval",
        "vtp_plugins.evaluate_retrieval.evaluator:Retrieval",
        config="vtp_plugins.evaluate_retrieval.config:RetrievalConfig",
        summary="Image-text retrieval in both directions, beside chance.",
    )
