"""Offers the evaluator `latent_statistics`. Imports no torch."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_evaluators(register: vtp.Register) -> None:
    """Registers `latent_statistics`."""
    register(
        "latent_statistics",
        "vtp_plugins.evaluate_latents.evaluator:LatentStatistics",
        config="vtp_plugins.evaluate_latents.config:LatentStatisticsConfig",
        summary="Effective rank, RankMe, kurtosis and dead channels of latents; drift from the artefact.",
    )
