"""``[views.NAME]``: what the loader makes of a sample. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from vtp_core.config import Table

Augment = Literal["none", "center", "clip", "crop", "dino", "dino_nominal"]
"""How crops are cut out of an image (`vtp_core.data.crops.augment`)."""

UnitInterval = Annotated[float, Field(ge=0, le=1)]


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"the first number must not be above the second, got {list(pair)}")
    return pair


class CropConfig(Table):
    """A set of crops that are cut out of each sample."""

    count: Annotated[int, Field(ge=1)] = 1
    """Crops a sample."""
    size: Annotated[int, Field(ge=1)] | None = None
    """Side in pixels; default: the view's."""
    scale: tuple[UnitInterval, UnitInterval] | None = None
    """Smallest and largest share of the image that a random crop covers; default: the augmentation's."""

    @field_validator("scale")
    @classmethod
    def _scale_rises(cls, scale: tuple[float, float] | None) -> tuple[float, float] | None:
        return scale if scale is None else _rising(scale)


class MaskConfig(Table):
    """Which patches of the global crops a masked forward doesn't see (block masks as in iBOT and DINOv2)."""

    ratio: tuple[UnitInterval, UnitInterval] = (0.1, 0.5)
    """Smallest and largest share of masked patches of a masked crop."""
    probability: UnitInterval = 0.5
    """Share of the crops that are masked at all."""

    @field_validator("ratio")
    @classmethod
    def _ratio_rises(cls, ratio: tuple[float, float]) -> tuple[float, float]:
        return _rising(ratio)


class ViewConfig(Table):
    """One view: how many samples a step, at which size, cropped and augmented how.

    Views of one source read the same shuffled samples of a step: a view of n rows takes the first n.
    """

    rows: Annotated[int, Field(ge=1)]
    """Samples a step over all ranks; a multiple of the number of ranks."""
    size: Annotated[int, Field(ge=1)]
    """Side of its crops in pixels; a multiple of the encoder's patch."""
    augment: Augment
    """`none` squashes, `center` crops the centre, `clip` and `crop` cut at random (`crop` flips too), `dino`
    also changes colours, `dino_nominal` too, with the blur rates that DINOv2's configuration names."""
    crops: Mapping[str, CropConfig] = Field(default={"global": CropConfig()}, validate_default=True)
    """Named sets of crops. `global` is always there: by default one crop of the view's size."""
    masks: MaskConfig | None = None
    """Masks for objectives that ask for a masked forward; an empty table takes the defaults."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of dropping a residual branch of the encoder, for forwards of this view."""
    source: str = "default"
    """Name of a table `[data.sources.NAME]`; `default` is `[data.source]`."""

    @field_validator("crops")
    @classmethod
    def _has_global(cls, crops: Mapping[str, CropConfig]) -> Mapping[str, CropConfig]:
        return {"global": CropConfig(), **crops}

    @model_validator(mode="after")
    def _random_crops(self) -> Self:
        for name, crop in self.crops.items():
            if crop.scale is not None and self.augment in ("none", "center"):
                raise ValueError(f'crops.{name}.scale needs a random crop, but augment is "{self.augment}"')
        return self

    def crop_size(self, name: str) -> int:
        """Side of a crop set in pixels."""
        return self.crops[name].size or self.size
