"""``[data]``: where samples come from and how they are loaded. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, SerializeAsAny, field_validator

from vtp_core.config import ComponentConfig, Table
from vtp_core.recipe.tables.slot import Slot


class DecodeLimits(Table):
    """Bounds on what one sample may hold; a sample beyond them is bad, it is never cut down."""

    max_pixels: Annotated[int, Field(ge=1)] = 64_000_000
    """Width x height of an image, read from its header before anything is decoded."""
    min_side: Annotated[int, Field(ge=1)] = 8
    """Pixels of an image's shorter side; a smaller image is bad."""
    max_bytes: Annotated[int, Field(ge=1)] = 100_000_000
    """Size of an encoded image."""
    max_text_bytes: Annotated[int, Field(ge=1)] = 65_536
    """Size of a caption."""


class DataConfig(Table):
    """Sources and the loader."""

    source: Annotated[SerializeAsAny[ComponentConfig], Slot("source")]
    """Training samples of all views that name no other source."""
    sources: Mapping[str, Annotated[SerializeAsAny[ComponentConfig], Slot("source")]] = {}
    """Further sources by name, for views with `source = "NAME"`."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Loader processes of each rank; 0 loads in the training process. Samples are the same for any number."""
    prefetch: Annotated[int, Field(ge=1)] = 2
    """Steps that each worker prepares ahead."""
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of unreadable samples above which the run stops; up to it they are replaced and counted."""
    decode: DecodeLimits = DecodeLimits()
    """Bounds on what one sample may hold."""

    @field_validator("sources")
    @classmethod
    def _default_is_taken(cls, sources: Mapping[str, ComponentConfig]) -> Mapping[str, ComponentConfig]:
        if "default" in sources:
            raise ValueError('"default" is the name of data.source; choose another')
        return sources
