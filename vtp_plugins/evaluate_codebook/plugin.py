"""Offers the evaluator `codebook`. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_evaluators(register: vtp.Register) -> None:
    """Registers `codebook`."""
    register(
        "codebook",
        "vtp_plugins.evaluate_codebook.evaluator:Codebook",
        config="vtp_plugins.evaluate_codebook.config:CodebookConfig",
        summary="Use, perplexity and entropy of each codebook over the held-out images.",
    )
