"""Per-channel mean and standard deviation of latents."""

from __future__ import annotations

import torch

from vtp_core.artefact.config import ArtefactConfig
from vtp_core.encoded import require_finite
from vtp_core.errors import UsageError
from vtp_core.evaluation.dataset import EvaluationSet
from vtp_core.evaluation.protocol import IMAGE_PROTOCOL
from vtp_core.tokenizer import Tokenizer


@torch.no_grad()
def measure_latents(model: Tokenizer, data: EvaluationSet, *, rows: int = 64) -> ArtefactConfig:
    """The tokenizer's config with measured `latents_mean`, `latents_std` and their protocol.

    Sums are float64 over all positions of the latents' mode, shifted by the first batch's mean.

    Args:
        model: A tokenizer in eval mode, with a `config`.
        data: The images to encode, usually the training set.
        rows: Samples per batch.

    Raises:
        NumericError: A latent is not finite.
    """
    if model.config is None:
        raise UsageError("measure_latents: the tokenizer has no config; build it with config=")
    shift = total = squares = torch.zeros(0)
    count = images = 0
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
    facts = data.facts(images)
    mean = total / count
    # A constant channel keeps its scale.
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    std = torch.where(std > 1e-8, std, torch.ones_like(std))
    config = model.config
    protocol = (
        "latent-statistics-v1 (mode, all positions, float64); "
        f"{IMAGE_PROTOCOL} {config.image_size} px; on {facts}; {config.weights} weights"
    )
    return config.model_copy(
        update={
            "latents_mean": tuple((mean + shift[:, 0]).tolist()),
            "latents_std": tuple(std.tolist()),
            "latents_stats_protocol": protocol,
        }
    )
