"""A folder of 200 pictures as someone may have it: six formats, three shapes, three broken files."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from vtp_core.recipe.tables.data import DecodeLimits
from vtp_plugins.samples.config import SamplesConfig
from vtp_plugins.samples.source import Samples

_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF", "tif": "TIFF"}
_SHAPES = ((96, 96), (144, 96), (96, 128))  # width, height
BROKEN = ("IMG_0013.png", "IMG_0063.bmp", "IMG_0150.jpg")


def make_photographs(folder: Path) -> None:
    """Fills a new folder from the drawings of the source `samples`."""
    source = Samples(SamplesConfig(), DecodeLimits())
    endings = list(_FORMATS)
    folder.mkdir()
    for number in range(200):
        drawing = source.read(4 * number, frozenset({"image"})).image
        assert drawing is not None
        whole = ImageOps.pad(Image.fromarray(drawing), _SHAPES[number % 7 % 3], color="white")
        ending = endings[number % 6]
        whole.save(folder / f"IMG_{number:04}.{ending}", _FORMATS[ending])
    page, empty, cut = (folder / name for name in BROKEN)
    page.write_text("<!doctype html><title>404 Not Found</title>")
    empty.write_bytes(b"")
    cut.write_bytes(cut.read_bytes()[:700])
