"""The table of ``use = "mim"``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import model_validator

from vtp_core.view import ViewNeed
from vtp_plugins.dino.config import PrototypeConfig

_HEAD = ("head_hidden", "head_width", "head_layers", "fixed_scales", "freeze_prototypes")


class MimConfig(PrototypeConfig):
    """Masked image modelling: a masked patch predicts the teacher's token at its place."""

    share_head_with: str | None = None
    """Objective whose head and prototypes are used, such as "dino" (VTP's code); by default it has its own
    (DINOv2 ViT-g). The keys of the head are then set there; `prototypes` matters here for centring only."""

    @model_validator(mode="after")
    def _one_head(self) -> Self:
        if self.share_head_with is not None:
            for key in _HEAD:
                # A written-out recipe names every key: one with its default asks for nothing.
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f'{key} belongs to the shared head: set it in "{self.share_head_with}"')
        return self

    def views(self) -> Mapping[str, ViewNeed]:
        """The one view: its global crops, masked."""
        return {self.view: ViewNeed(masked=True, rows=self.rows)}

    def partners(self) -> Mapping[str, str]:
        """Whose head is used."""
        return {} if self.share_head_with is None else {"share_head_with": self.share_head_with}
