"""``[data]``: sources and the loader. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, SerializeAsAny, field_validator

from vtp_core.config import ComponentConfig, Table
from vtp_core.recipe.tables.slot import Slot


class DecodeLimits(Table):
    """Limits on one sample; a sample beyond them is bad, it is never truncated."""

    max_pixels: Annotated[int, Field(ge=1)] = 64_000_000
    """Largest width x height of an image, read from its header before decoding."""
    min_side: Annotated[int, Field(ge=1)] = 8
    """Smallest shorter side of an image in pixels."""
    max_bytes: Annotated[int, Field(ge=1)] = 100_000_000
    """Largest size of an encoded image."""
    max_text_bytes: Annotated[int, Field(ge=1)] = 65_536
    """Largest size of a caption."""


class DataConfig(Table):
    """Sources and the loader."""

    source: Annotated[SerializeAsAny[ComponentConfig], Slot("source")]
    """Training samples of the views that name no other source."""
    sources: Mapping[str, Annotated[SerializeAsAny[ComponentConfig], Slot("source")]] = {}
    """Further sources by name, for views with `source = "NAME"`."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Loader processes per rank; 0 loads in the training process. The samples don't depend on it."""
    prefetch: Annotated[int, Field(ge=1)] = 2
    """Steps that each worker loads in advance."""
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Fraction of bad samples above which the run stops; below it they are replaced and counted."""
    decode: DecodeLimits = DecodeLimits()
    """Limits on one sample."""

    @field_validator("sources")
    @classmethod
    def _default_is_taken(cls, sources: Mapping[str, ComponentConfig]) -> Mapping[str, ComponentConfig]:
        if "default" in sources:
            raise ValueError('"default" is the name of data.source; choose another')
        return sources
