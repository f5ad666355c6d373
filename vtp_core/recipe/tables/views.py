"""``[views.NAME]``: crops, augmentation and masks of the samples. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from vtp_core.config import AugmentationConfig, Table
from vtp_core.recipe.tables.slot import Slot
from vtp_core.view import Size, sides

Side = Annotated[int, Field(ge=1)]


def _side_or_sides(value: object) -> object:
    """One message for what is neither a side nor two of them."""
    sides = value if isinstance(value, list | tuple) else (value, value)
    if len(sides) != 2 or not all(type(side) is int and side >= 1 for side in sides):
        raise ValueError(
            f"expected a side in pixels or [height, width], got {json.dumps(value, default=str)}"
        )
    return tuple(value) if isinstance(value, list | tuple) else value


SideOrSides = Annotated[Side | tuple[Side, Side], BeforeValidator(_side_or_sides)]
UnitInterval = Annotated[float, Field(ge=0, le=1)]


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"the first number must not be above the second, got {list(pair)}")
    return pair


class CropConfig(Table):
    """A set of crops of each sample."""

    count: Annotated[int, Field(ge=1)] = 1
    """Crops per sample."""
    size: SideOrSides | None = None
    """Side in pixels, or `[height, width]`; default: the view's."""
    scale: tuple[UnitInterval, UnitInterval] | None = None
    """Smallest and largest fraction of the image's area in a random crop; default: the augmentation's."""

    @field_validator("scale")
    @classmethod
    def _scale_rises(cls, scale: tuple[float, float] | None) -> tuple[float, float] | None:
        return scale if scale is None else _rising(scale)


class MaskConfig(Table):
    """Block masks of the global crops for masked forwards (as in iBOT and DINOv2)."""

    ratio: tuple[UnitInterval, UnitInterval] = (0.1, 0.5)
    """Smallest and largest fraction of masked patches in a masked crop."""
    probability: UnitInterval = 0.5
    """Fraction of the crops that are masked."""

    @field_validator("ratio")
    @classmethod
    def _ratio_rises(cls, ratio: tuple[float, float]) -> tuple[float, float]:
        return _rising(ratio)


class ViewConfig(Table):
    """One view: samples per step, their size, crops and augmentation.

    Views of one source read the same shuffled samples of a step; a view of n rows takes the first n.
    """

    rows: Annotated[int, Field(ge=1)]
    """Samples per step over all ranks; a multiple of the number of ranks."""
    size: SideOrSides
    """Side of the crops in pixels, or `[height, width]`; multiples of the encoder's patch."""
    augment: Annotated[SerializeAsAny[AugmentationConfig], Slot("augmentation")]
    """`none` squashes, `center` crops the centre, `clip` and `crop` cut at random (`crop` flips too), `dino`
    also changes colours, `dino_nominal` too, with the blur rates that DINOv2's configuration names; or the
    table of a plugin's augmentation."""
    crops: Mapping[str, CropConfig] = Field(default={"global": CropConfig()}, validate_default=True)
    """Named sets of crops. `global` always exists, by default with one crop of the view's size."""
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
            if crop.scale is not None and not self.augment.cuts_at_random():
                use = self.augment.use
                raise ValueError(f'crops.{name}.scale needs a random crop, but augment is "{use}"')
        return self

    def crop_size(self, name: str) -> Size:
        """Size of a crop set in pixels."""
        return self.crops[name].size or self.size

    def grid(self, patch: int) -> tuple[int, int]:
        """Patch rows and columns of a global crop."""
        height, width = sides(self.crop_size("global"))
        return height // patch, width // patch
