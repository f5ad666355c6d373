"""The pictures of the page as ``data:`` addresses, each stored once, within a budget. Imports no torch."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, features

from vtp_core.data.decoding import decode_image, read_file
from vtp_core.data.source import BadSample
from vtp_core.recipe.tables.data import DecodeLimits

BUDGET = 3_500_000
"""Largest size of all pictures in bytes; keeps the page under 5 MB."""
LIMITS = DecodeLimits(min_side=1)
"""Limits on the files: a picture of a latent may have one pixel."""
EXACT_SIDE = 128
"""Largest side in pixels of pictures that are drawn with visible pixels."""


@dataclass(frozen=True)
class Level:
    """How pictures are embedded: their largest side, and the quality of lossy ones (None: PNG)."""

    side: int
    quality: int | None

    def __str__(self) -> str:
        if self.quality is None:
            return "without loss"
        return f"at quality {self.quality} and at most {self.side} px"


LEVELS = (Level(256, None), Level(256, 90), Level(160, 75))
"""The first one at which all pictures fit is taken."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture of the page.

    Attributes:
        id: Of the element that holds it.
        width: In pixels, as stored.
        height: In pixels, as stored.
        data: Its ``data:`` address.
        exact: Whether it is small enough to show its pixels.
    """

    id: str
    width: int
    height: int
    data: str
    exact: bool


@dataclass(frozen=True)
class Pictures:
    """The pictures that had room, by file name; files with the same pixels share one.

    Attributes:
        stored: File name -> picture.
        level: How they are stored.
        omitted: How many had no room.
        unreadable: How many can't be read.
    """

    stored: Mapping[str, Picture]
    level: Level
    omitted: int
    unreadable: int

    @property
    def once(self) -> list[Picture]:
        """Each picture once."""
        return list({picture.id: picture for picture in self.stored.values()}.values())


def embed(folder: Path, names: Iterable[str], budget: int = BUDGET) -> Pictures:
    """Reads PNG files of a folder.

    Args:
        folder: Where they lie.
        names: File names, the most important first. Of a path only the last part is used, so that a name
            can't point outside of the folder; files that can't be read are left out.
        budget: Bytes of all addresses together.
    """
    wanted = [name for name in dict.fromkeys(names) if name]
    for level in LEVELS:
        stored: dict[str, Picture] = {}
        same: dict[str, Picture] = {}
        spent = omitted = unreadable = 0
        for name in wanted:
            picture = _embedded(folder / Path(name).name, f"i{len(same)}", level)
            if picture is None:
                unreadable += 1
                continue
            if picture.data in same:
                stored[name] = same[picture.data]
                continue
            if spent + len(picture.data) > budget:
                omitted += 1
                if level != LEVELS[-1]:
                    break
                continue
            spent += len(picture.data)
            stored[name] = same[picture.data] = picture
        if not omitted:
            break
    return Pictures(stored, level, omitted, unreadable)


def _embedded(path: Path, name: str, level: Level) -> Picture | None:
    try:
        stored = read_file(path, path.name, LIMITS.max_bytes)
        picture = Image.fromarray(decode_image(stored, path.name, LIMITS))
    except BadSample:
        return None
    data = io.BytesIO()
    picture.thumbnail((level.side, level.side), Image.Resampling.LANCZOS)
    exact = max(picture.size) <= EXACT_SIDE
    if level.quality is None or max(picture.size) <= EXACT_SIDE // 2:
        kind = "PNG"
        picture.save(data, kind, optimize=exact)
    else:
        kind = "WEBP" if features.check("webp") else "JPEG"
        picture.save(data, kind, quality=level.quality)
    return Picture(
        id=name,
        width=picture.width,
        height=picture.height,
        data=f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}",
        exact=exact,
    )
