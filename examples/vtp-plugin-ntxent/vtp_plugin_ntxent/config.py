"""The table of ``use = "ntxent.simclr"``. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator

import vtp_core as vtp


class SimclrConfig(vtp.ObjectiveConfig):
    """NT-Xent between two crops of each image (SimCLR, arXiv 2002.05709, section 2.1)."""

    view: str
    """View whose crops are compared."""
    rows: Annotated[int, Field(gt=1)] | None = None
    """Global rows a step, the view's first ones; all by default."""
    crops: tuple[str, str] = ("global", "other")
    """The two crop sets of the view; the first crop of each is taken."""
    features: Literal["cls", "pooled"] = "cls"
    """The class token, or the mean of the patch tokens."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Divides the cosine similarities (paper: 0.1 for ImageNet, 0.5 for CIFAR-10)."""
    hidden: Annotated[int, Field(gt=0)] = 256
    """Width of the projection head's hidden layer."""
    channels: Annotated[int, Field(gt=0)] = 128
    """Width of the compared embeddings (paper: 128)."""

    @field_validator("crops")
    @classmethod
    def _two_sets(cls, crops: tuple[str, str]) -> tuple[str, str]:
        if crops[0] == crops[1]:
            raise ValueError(f'needs two different crop sets, got "{crops[0]}" twice')
        return crops

    def views(self) -> Mapping[str, vtp.ViewNeed]:
        """Both crop sets of the one view."""
        return {self.view: vtp.ViewNeed(crops=self.crops, rows=self.rows)}
