"""Per-channel mean and standard deviation of latents."""

from __future__ import annotations

import torch

from vtp_core.artefact.config import ArtefactConfig
from vtp_core.encoded import require_finite
from vtp_core.errors import UsageError
from vtp_core.evaluation.progress import Show, silent
from vtp_core.evaluation.protocol import IMAGE_PROTOCOL
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import size_text

GPU_SAMPLES, CPU_SAMPLES = 10_000, 2_000
"""Most samples that statistics are measured on unless a number is given; 10,000 as in the VTP release."""


def statistics_samples(device: torch.device, asked: int | None = None, limit: int | None = None) -> int:
    """Number of samples for the statistics of a run; 0: none are measured.

    Args:
        device: Where the tokenizer computes.
        asked: What was asked for; None: what the device allows, at most `limit`.
        limit: ``evaluate.limit``.
    """
    if asked is not None:
        return asked
    most = CPU_SAMPLES if device.type == "cpu" else GPU_SAMPLES
    return min(limit or most, most)


@torch.no_grad()
def measure_latents(
    model: Tokenizer, data: EvaluationSet, *, rows: int = 64, show: Show = silent
) -> ArtefactConfig:
    """The tokenizer's config with measured `latents_mean`, `latents_std` and their protocol.

    Sums are float64 over all positions of the latents' mode, shifted by the first batch's mean.

    Args:
        model: A tokenizer in eval mode, with a `config`.
        data: The images to encode, usually the training set.
        rows: Samples per batch.
        show: Shows the progress.

    Raises:
        NumericError: A latent is not finite.
    """
    if model.config is None:
        raise UsageError("measure_latents: the tokenizer has no config; build it with config=")
    shift = total = squares = torch.zeros(0)
    count = images = 0
    with show(f"latent statistics: {data.name}", len(data.indices())) as advance:
        for batch in data.batches(model.config.image_size, rows):
            encoded = model.encode(batch.to(model.device).image).latent
            require_finite("latent statistics", {"the latent is": encoded}, model)
            latent = encoded.double().transpose(0, 1).flatten(1)
            if not images:
                shift = latent.mean(1, keepdim=True)
                total, squares = torch.zeros_like(shift[:, 0]), torch.zeros_like(shift[:, 0])
            latent = latent - shift
            total, squares = total + latent.sum(1), squares + latent.square().sum(1)
            count, images = count + latent.shape[1], images + len(batch)
            advance(len(batch))
    facts = data.facts(images)
    mean = total / count
    # A constant channel keeps its scale.
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    std = torch.where(std > 1e-8, std, torch.ones_like(std))
    config = model.config
    protocol = (
        "latent-statistics-v1 (mode, all positions, float64); "
        f"{IMAGE_PROTOCOL} {size_text(config.image_size)} px; on {facts}; {config.weights} weights"
    )
    return config.model_copy(
        update={
            "latents_mean": tuple((mean + shift[:, 0]).tolist()),
            "latents_std": tuple(std.tolist()),
            "latents_stats_protocol": protocol,
            "fingerprint": None,
        }
    )
