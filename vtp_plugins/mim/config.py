"""The table of ``use = "mim"``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

from pydantic import model_validator

from vtp_core.config import ObjectiveConfig
from vtp_core.view import ViewNeed, ViewSize
from vtp_plugins.dino.config import PrototypeConfig

_HEAD = ("head_hidden", "head_width", "head_layers", "fixed_scales", "freeze_prototypes")


class MimConfig(PrototypeConfig):
    """Masked image modelling: a masked patch predicts the teacher's token at its place."""

    share_head_with: str | None = None
    """Objective whose head and prototypes are used, such as "dino" (VTP's code); default: its own (DINOv2
    ViT-g). The head's keys are then those of that objective; `prototypes` is used for centering only."""

    @model_validator(mode="after")
    def _one_head(self) -> Self:
        if self.share_head_with is not None:
            for key in _HEAD:
                # A resolved recipe has every key; defaults are allowed.
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f'{key} belongs to the shared head: set it in "{self.share_head_with}"')
        return self

    def views(self) -> Mapping[str, ViewNeed]:
        """The one view: its global crops, masked."""
        return {self.view: ViewNeed(masked=True, rows=self.rows)}

    def chance(
        self, views: Mapping[str, ViewSize], objectives: Mapping[str, ObjectiveConfig]
    ) -> Mapping[str, float]:
        """The cross-entropy of equal probabilities, times the fraction of masked crops."""
        head = self if self.share_head_with is None else objectives.get(self.share_head_with)
        view = views.get(self.view)
        if view is None or not isinstance(head, PrototypeConfig):
            return {}
        return {"distillation": view.masked * math.log(head.prototypes)}

    def partners(self) -> Mapping[str, str]:
        """The objective whose head is used."""
        return {} if self.share_head_with is None else {"share_head_with": self.share_head_with}
