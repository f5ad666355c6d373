"""A picture of many samples: one row a class, or one field of all. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

CELL = 96
"""Smallest side in pixels of a sample in the picture; smaller samples are enlarged."""
GAP, MARGIN = 4, 12
PAPER, INK = "white", "#333333"


Rows = Sequence[tuple[str, Sequence[Image.Image]]]
"""Title, or an empty one, and samples of each row; all of one size."""


def draw_grid(rows: Rows) -> Image.Image:
    """The samples in rows, each with its title on the left."""
    width, height = rows[0][1][0].size
    scale = max(1, math.ceil(CELL / min(width, height)))
    width, height = width * scale, height * scale
    font = ImageFont.load_default(size=max(12, height // 6))
    label = max((math.ceil(font.getlength(title)) for title, _ in rows), default=0)
    left = MARGIN + (label + MARGIN if label else 0)
    columns = max(len(samples) for _, samples in rows)
    size = (
        left + columns * (width + GAP) - GAP + MARGIN,
        2 * MARGIN + len(rows) * (height + GAP) - GAP,
    )
    picture = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(picture)
    for row, (title, samples) in enumerate(rows):
        top = MARGIN + row * (height + GAP)
        if title:
            pen.text((left - MARGIN, top + height / 2), title, fill=INK, font=font, anchor="rm")
        for column, sample in enumerate(samples):
            enlarged = sample.resize((width, height), Image.Resampling.BICUBIC)
            picture.paste(enlarged, (left + column * (width + GAP), top))
    return picture


def field(samples: Sequence[Image.Image]) -> Rows:
    """Rows without titles, about as many as columns."""
    columns = math.ceil(math.sqrt(len(samples)))
    return [("", samples[start : start + columns]) for start in range(0, len(samples), columns)]
