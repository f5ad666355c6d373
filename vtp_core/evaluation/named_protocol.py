"""Protocols with a name and a version, such as those of published tables. Imports no torch.

A plugin that measures one offers it; an evaluator's table chooses it by ``protocol = "..."``. It fixes every
setting that changes the number, so that a name in a table says how it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vtp_core.evaluation.sampling import Sampling
from vtp_core.view import Size

Crop = Literal["adm", "shorter_side", "squash"]
"""``adm``: `vtp_core.data.crops.geometry.center_crop`; ``shorter_side``: `shorter_side_crop`; ``squash``: all
of the image, its proportions changed, by bilinear interpolation."""
Rounding = Literal["round", "truncate", "none"]

CROPS: Mapping[Crop, str] = {
    "adm": "centre-crop-v1",
    "shorter_side": "shorter-side-crop-v1",
    "squash": "squash-v1",
}
"""Crop -> its name with its version in protocols."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What happens to images before the tokenizer and to pixels behind it.

    Attributes:
        crop: Resize and crop of the images.
        rounding: How clamped pixels become 8-bit ones, of reconstructions and of the images' own float
            pixels; ``none``: they stay float.
        encode: Precision in which encoder and bottleneck compute; the decoder keeps the tokenizer's.
        size: Side of the images in pixels; None: the tokenizer's.
        shorter: Side to which `shorter_side` resizes before it cuts the center; None: the images'.
        views: Random crops with flips that are read of each training image; 0: the crop of held-out images.
    """

    crop: Crop = "adm"
    rounding: Rounding = "round"
    encode: Literal["own", "bfloat16"] = "own"
    size: int | None = None
    shorter: int | None = None
    views: int = 0

    def __str__(self) -> str:
        parts = [CROPS[self.crop] + (f" of {self.shorter}" if self.shorter is not None else "")]
        if self.views:
            parts.append(f"training images by {self.views} random crops and flips each")
        if self.rounding != "round":
            parts.append({"truncate": "8 bit by clamp and truncation", "none": "float pixels"}[self.rounding])
        if self.encode != "own":
            parts.append(f"encoder in {self.encode}")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class NamedProtocol:
    """A protocol with a name and a version.

    Attributes:
        name: As recipes and tables write it.
        about: What is measured, and whose numbers it reproduces.
        image_size: Side of the images in pixels.
        images: How many are measured: the whole held-out set, or generated samples; None: unknown, the whole
            of any set.
        train_images: How many images a probe is fitted on; None: any, or nothing is fitted.
        preparation: Crop, rounding and precision.
        reference: What they are compared with.
        extractor: The network of the features, or empty.
        extractor_hash: SHA-256 of the file of its weights, or empty.
        sampling: Settings with which samples are made, as far as they are known.
        source: Where this is written.
        conditions: What it also requires and no evaluator can check, such as the transformer's training.
        unmeasured: Numbers that its source reports under it and no evaluator measures.
        unknown: Settings that the source doesn't give; those of this protocol are ours.
    """

    name: str
    about: str
    image_size: Size
    images: int | None
    train_images: int | None = None
    preparation: Preparation = field(default_factory=Preparation)
    reference: str
    extractor: str = ""
    extractor_hash: str = ""
    sampling: Sampling = field(default_factory=dict)
    source: str
    conditions: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def label(self, measured: int, fitted: int | None = None, *, of: int | None = None, lost: int = 0) -> str:
        """The name in a table of numbers: `name`, marked if other images were used.

        Args:
            measured: Images that were measured.
            fitted: Images that a probe was fitted on, if there was one.
            of: Images of the set that is measured; None: samples are.
            lost: Parts of both sets that can't be read.
        """
        label = self.name
        asked = self.images if self.images is not None else of
        if asked not in (None, measured):
            label += f"-PARTIAL-{measured}-of-{asked}"
        if self.train_images not in (None, fitted):
            label += f"-FITTED-ON-{fitted}-of-{self.train_images}"
        if lost:
            label += f"-WITHOUT-{lost}-LOST-PARTS"
        return label

    def notes(self) -> tuple[str, ...]:
        """What a reader of a number should know."""
        found = [f"{self.name} also requires {text}, which is not checked" for text in self.conditions]
        found += [f"{self.name} also has {text}, which is not measured" for text in self.unmeasured]
        if self.unknown:
            found.append(
                f"{self.name}: not known of the published numbers: {', '.join(self.unknown)}; ours are used"
            )
        return tuple(found)
