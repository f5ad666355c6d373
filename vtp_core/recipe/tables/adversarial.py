"""Base class of the tables of objectives with a critic. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import SerializeAsAny

from vtp_core.config import ObjectiveConfig, OptimizerConfig
from vtp_core.recipe.tables.optimizer import AdamWConfig
from vtp_core.recipe.tables.slot import Slot


class AdversarialConfig(ObjectiveConfig):
    """A table ``[objectives.NAME]`` of an objective with a critic."""

    critic_optimizer: Annotated[SerializeAsAny[OptimizerConfig], Slot("optimizer")] = AdamWConfig(
        lr=2e-4, betas=(0.5, 0.9), weight_decay=0.0
    )
    """The critic's own optimiser. Betas as in LDM's discriminator (Rombach et al. 2022, public code)."""
