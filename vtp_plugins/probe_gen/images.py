"""Images in memory as a source, so that a proxy is trained on them as on those of any other source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vtp_core.data.source import Sample

UNKNOWN = -1
"""Label of an image without one; such images are a class of their own."""


@dataclass(frozen=True, kw_only=True)
class KeptImages:
    """Images of the size at which they are encoded.

    Classes are numbered by their first image, so that they are the same however a set numbers them.

    Attributes:
        images: (N, 3, H, W) uint8.
        hashes: (N,) int64, the keys.
        labels: Class of each image.
        classes: Their numbers as text; empty if all images are of one.
    """

    images: Tensor
    hashes: tuple[int, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, rows: Mapping[str, Tensor]) -> KeptImages:
        """Those of `image`, `order` and `label`, in the order of `least_hashes.least`."""
        given = rows["label"].tolist()
        number = {label: index for index, label in enumerate(dict.fromkeys(given))}
        return cls(
            images=rows["image"],
            hashes=tuple(rows["order"].tolist()),
            labels=tuple(number[label] for label in given),
            classes=tuple(map(str, number.values())) if len(number) > 1 else (),
        )

    @property
    def fields(self) -> frozenset[str]:
        """Labels only if there are several."""
        return frozenset({"image", "label"} if self.classes else {"image"})

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        """The image with its label."""
        pixels = self.images[index].permute(1, 2, 0).contiguous().numpy()
        return Sample(key=f"{self.hashes[index]:016x}", image=pixels, label=self.labels[index])
