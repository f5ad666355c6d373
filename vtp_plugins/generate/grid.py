"""A picture of many samples: one row a class, or one field of all. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vtp_core.errors import UsageError

CELL = 96
"""Smallest side in pixels of a sample in the picture; smaller samples are enlarged."""
GAP, MARGIN = 4, 12
PAPER, INK = "white", "#333333"
LONGEST = {".png": 1_000_000, ".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}
"""Ending of the file -> most pixels a side, by the formats' own limits or, of PNG, its decoders'."""

Rows = Sequence[tuple[str, Sequence[int]]]
"""Title, or an empty one, and numbers of the samples of each row."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where samples stand.

    Attributes:
        rows: Titles and samples.
        cell: Width and height of a sample in the picture.
        left: Where the first column begins.
        size: Width and height of the picture.
        font: Of the titles.
    """

    rows: Rows
    cell: tuple[int, int]
    left: int
    size: tuple[int, int]
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont

    @classmethod
    def of(cls, rows: Rows, width: int, height: int) -> Layout:
        """The layout of samples of a size."""
        scale = max(1, math.ceil(CELL / min(width, height)))
        width, height = width * scale, height * scale
        font = ImageFont.load_default(size=max(12, height // 6))
        label = max((math.ceil(font.getlength(title)) for title, _ in rows), default=0)
        left = MARGIN + (label + MARGIN if label else 0)
        columns = max(len(samples) for _, samples in rows)
        size = left + columns * (width + GAP) - GAP + MARGIN, 2 * MARGIN + len(rows) * (height + GAP) - GAP
        return cls(rows=rows, cell=(width, height), left=left, size=size, font=font)

    def check(self, file: Path) -> None:
        """Refuses a picture that the file's format can't hold.

        Raises:
            UsageError: Its name has another ending than those of pictures, or the picture is too large.
        """
        longest = LONGEST.get(file.suffix.lower())
        if longest is None:
            raise UsageError(f"--grid {file}: the name must end in .png, .jpg or .webp")
        if max(self.size) > longest:
            raise UsageError(
                f"--grid {file}: a picture of {self.size[0]} x {self.size[1]} pixels, and {file.suffix} "
                f"holds {longest} a side; take .png, fewer images, or -o FOLDER in its place"
            )

    def draw(self, samples: Sequence[Image.Image]) -> Image.Image:
        """The picture."""
        width, height = self.cell
        picture = Image.new("RGB", self.size, PAPER)
        pen = ImageDraw.Draw(picture)
        for row, (title, numbers) in enumerate(self.rows):
            top = MARGIN + row * (height + GAP)
            if title:
                place = self.left - MARGIN, top + height / 2
                pen.text(place, title, fill=INK, font=self.font, anchor="rm")
            for column, number in enumerate(numbers):
                enlarged = samples[number].resize((width, height), Image.Resampling.BICUBIC)
                picture.paste(enlarged, (self.left + column * (width + GAP), top))
        return picture


def field(count: int) -> Rows:
    """Rows without titles, about as many as columns."""
    columns = math.ceil(math.sqrt(count))
    return [("", range(start, min(start + columns, count))) for start in range(0, count, columns)]


def by_class(classes: Sequence[int], titles: Sequence[str]) -> Rows:
    """A row a class, in the order of their first samples."""
    rows: dict[int, list[int]] = {}
    for number, label in enumerate(classes):
        rows.setdefault(label, []).append(number)
    return [(titles[numbers[0]], numbers) for numbers in rows.values()]
