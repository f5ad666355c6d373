"""``augment = "NAME"`` of a view: the core's own augmentations. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import model_serializer

from vtp_core.config import AugmentationConfig

AugmentationName = Literal["none", "center", "center_flip", "clip", "crop", "dino", "dino_nominal"]
"""Names of the core's own augmentations (`vtp_core.data.crops.augment`)."""


class BuiltInAugmentationConfig(AugmentationConfig):
    """A built-in augmentation; without keys, so it is written as its name."""

    use: AugmentationName

    def cuts_at_random(self) -> bool:
        """Whether it is neither `none` nor a centre crop."""
        return self.use not in ("none", "center", "center_flip")

    @model_serializer(mode="plain")
    def _name(self) -> str:
        return self.use
