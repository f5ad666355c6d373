"""The statistics by which a tokenizer normalises latents."""

from __future__ import annotations

import torch
from torch import Tensor

from vtp_core.artefact.config import ArtefactConfig
from vtp_core.errors import UsageError


def statistics_of(caller: str, config: ArtefactConfig | None) -> tuple[Tensor, Tensor]:
    """Mean and factor of normalised latents, (1, d, 1, 1) float64 each.

    Raises:
        UsageError: There are none.
    """
    if config is None or config.latents_mean is None or config.latents_std is None:
        raise UsageError(f"{caller}: the artefact holds no latent statistics; write it with `vtp export`")
    mean = torch.tensor(config.latents_mean, dtype=torch.float64).view(1, -1, 1, 1)
    std = torch.tensor(config.latents_std, dtype=torch.float64).view(1, -1, 1, 1)
    return mean, config.scaling_factor / std
