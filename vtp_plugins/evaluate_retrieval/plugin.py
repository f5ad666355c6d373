"""Offers the evaluator `retrieval`. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_evaluators(register: vtp.Register) -> None:
    """Registers `retrieval`."""
    register(
        "retrieval",
        "vtp_plugins.evaluate_retrieval.evaluator:Retrieval",
        config="vtp_plugins.evaluate_retrieval.config:RetrievalConfig",
        summary="Image-text retrieval in both directions, beside chance.",
    )
