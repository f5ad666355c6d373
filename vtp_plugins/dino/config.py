"""The table of ``use = "dino"`` and the keys that it shares with ``use = "mim"``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from vtp_core.config import KeyHistory, ObjectiveConfig
from vtp_core.schedule import Linear, Scheduled, value_at
from vtp_core.view import ViewNeed, ViewSize

Positive = Annotated[int, Field(gt=0)]


class PrototypeConfig(ObjectiveConfig):
    """Keys of the losses over prototypes. Defaults as in DINOv2's ViT-L/16 and in VTP's code."""

    key_history: ClassVar[KeyHistory] = KeyHistory(renamed={"centre_momentum": "center_momentum"})

    view: str
    """View whose crops are compared."""
    rows: Positive | None = None
    """Global rows per step, the view's first ones; default: all."""
    bottleneck: bool = False
    """Whether to use the latent's tokens instead of the encoder's (VTP's `bottleneck_ae_only = False`)."""
    prototypes: Positive = 65536
    """Number of prototypes (DINOv2)."""
    head_hidden: Positive = 2048
    """Width of the head's hidden layers (DINOv2; VTP's code)."""
    head_width: Positive = 256
    """Width of the unit vectors that are scored (DINOv2; VTP's code)."""
    head_layers: Positive = 3
    """Linear layers of the head (DINOv2; VTP's code)."""
    fixed_scales: bool = False
    """Whether the prototypes' lengths stay at 1 instead of being trained (VTP's code trains them)."""
    freeze_prototypes: Annotated[int, Field(ge=0)] = 1250
    """First steps in which the prototypes are frozen (DINOv2: one epoch of 1250 steps)."""
    targets: Literal["sinkhorn", "centering"] = "sinkhorn"
    """Targets from the teacher's scores: three Sinkhorn-Knopp iterations over the step's global rows (DINOv2
    ViT-g, DINOv3), or a softmax of scores centered by their running mean (DINOv2 ViT-L/16)."""
    center_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of the running mean; for `targets = "centering"`."""
    student_temperature: Annotated[float, Field(gt=0)] = 0.1
    """Temperature of the student's softmax (DINO)."""
    teacher_temperature: Scheduled = Linear(start=0.04, end=0.07, steps=37_500)
    """Temperature of the teacher's softmax (DINOv2: 0.04 to 0.07 over 30 of 100 epochs)."""

    @model_validator(mode="after")
    def _warm_teacher(self) -> Self:
        schedule = self.teacher_temperature
        steps = [0, 1, 10**9] if isinstance(schedule, int | float) else [0, schedule.warmup, 10**9]
        if min(value_at(schedule, step, 10**9) for step in steps) <= 0:
            raise ValueError("teacher_temperature must stay above 0")
        return self


class DinoConfig(PrototypeConfig):
    """Self-distillation: each student crop predicts the teacher's output for the other global crops."""

    local_crops: tuple[str, ...] = ("local",)
    """Crop sets that only the student sees; empty for none."""
    masked: bool = True
    """Whether the student's global crops are masked, in the same forward as `mim`'s (iBOT, DINOv2)."""

    def views(self) -> Mapping[str, ViewNeed]:
        """The one view: its global crops, masked, and local ones."""
        return {self.view: ViewNeed(crops=("global", *self.local_crops), masked=self.masked, rows=self.rows)}

    def chance(
        self, views: Mapping[str, ViewSize], objectives: Mapping[str, ObjectiveConfig]
    ) -> Mapping[str, float]:
        """The cross-entropy of a student that gives all prototypes the same probability."""
        return {"distillation": math.log(self.prototypes)}
