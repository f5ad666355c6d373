"""Decodes untrusted images and captions. Imports no torch.

Sizes are checked in the header, before any pixel is decoded; nothing is unpickled or executed; a damaged
image is a `BadSample`, never a partly grey image. `docs/data.md` has the table of conversions.
"""

from __future__ import annotations

import codecs
import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from vtp_core.data.source import BadSample
from vtp_core.recipe.tables.data import DecodeLimits

# Formats that can't run code or start other programs (EPS would start Ghostscript), if Pillow has them.
Image.init()
_FORMATS = tuple(name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF") if name in Image.OPEN)
_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the image upright."""


def decode_image(data: bytes, key: str, limits: DecodeLimits) -> NDArray[numpy.uint8]:
    """Decodes an image to RGB.

    Takes the first frame of an animation, applies the EXIF orientation, composes transparency over white,
    converts CMYK, palettes and grayscale, and scales 16-bit grayscale to 8 bit.

    Args:
        data: The file.
        key: Name of the sample, for the error.
        limits: Bounds on its size.

    Returns:
        (H, W, 3) uint8.

    Raises:
        BadSample: The file is empty, no image, truncated, too large, too small or of an unknown pixel format.
    """
    if not data:
        raise BadSample(key, "empty image")
    if len(data) > limits.max_bytes:
        raise BadSample(key, "image file too large", f"over {limits.max_bytes} bytes")
    with _damage_named(key, data), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        return numpy.array(_upright_rgb(image, key, limits))


def convert_image(image: Image.Image, key: str, limits: DecodeLimits) -> Image.Image:
    """Converts an opened image to RGB, as `decode_image` does.

    Args:
        image: Left as it is, but its pixels are loaded.
        key: Its name, for the error.
        limits: Bounds on its size.

    Raises:
        BadSample: As of `decode_image`, or it comes from a file of another format.
    """
    if image.format not in (None, "MPO", *_FORMATS):
        raise BadSample(key, "not an image", f"{image.format} files are not read; convert it to RGB first")
    with _damage_named(key):
        return _upright_rgb(image, key, limits)


def read_file(path: Path, key: str, most: int) -> bytes:
    """Reads a regular file; of one with more than `most` bytes only so many and one more.

    Raises:
        BadSample: It is missing, unreadable or no regular file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadSample(key, "unreadable", "not a regular file")
        with path.open("rb") as file:
            return file.read(min(os.fstat(file.fileno()).st_size, most) + 1)
    except (OSError, ValueError) as error:
        raise BadSample(key, "unreadable", str(error)) from error


@contextmanager
def _damage_named(key: str, data: bytes = b"") -> Iterator[None]:
    """Turns whatever Pillow raises into a `BadSample`."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of unreadable metadata, and of sizes for which there is a limit here.
            warnings.simplefilter("ignore")
            yield
    except BadSample:
        raise
    except Image.DecompressionBombError as error:
        raise BadSample(key, "too many pixels", str(error)) from error
    except UnidentifiedImageError as error:
        raise BadSample(key, "not an image", f"starts with {data[:16]!r}") from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        what = "truncated image" if "truncated" in str(error) else "damaged image"
        raise BadSample(key, what, f"{type(error).__name__}: {error}") from error


def _upright_rgb(image: Image.Image, key: str, limits: DecodeLimits) -> Image.Image:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise BadSample(key, "too many pixels", f"{width}x{height} is over {limits.max_pixels}")
    if min(width, height) < limits.min_side:
        raise BadSample(key, "too small", f"{width}x{height} is under {limits.min_side}")
    clear = _transparent_value(image)
    image.load()
    turn = _TURNS.get(_orientation(image))
    return _rgb(image if turn is None else image.transpose(turn), clear, key)


def _orientation(image: Image.Image) -> object:
    """The EXIF orientation; a damaged tag counts as none, as in browsers."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None


def _transparent_value(image: Image.Image) -> int | tuple[int, ...] | None:
    """The grey value or colour that a PNG or GIF declares transparent, on the scale of Pillow's pixels.

    Pillow scales pixels of 2, 4 and 3 x 16 bit to 8 bit, but not the declared value. The depth is known only
    before the pixels are loaded.
    """
    value = image.info.get("transparency")
    if not isinstance(value, int | tuple) or not (image.mode in ("1", "L", "RGB") or image.mode[0] == "I"):
        return None
    tiles = getattr(image, "tile", None)
    stored = str(tiles[0][3]) if tiles and image.format == "PNG" else ""
    if isinstance(value, tuple):
        return tuple(part >> 8 for part in value) if stored == "RGB;16B" else value
    return value * {"L;2": 85, "L;4": 17}.get(stored, 1)


def _rgb(image: Image.Image, clear: int | tuple[int, ...] | None, key: str) -> Image.Image:
    mode = image.mode
    if mode == "F":
        raise BadSample(key, "floating-point pixels", "store 8 or 16 bit")
    if mode == "1":
        image = image.convert("L")
    opaque = _grayscale_16_bit(image, key) if mode[0] == "I" else image
    if clear is not None:
        equal = numpy.asarray(image) == numpy.array(clear)
        pixels = numpy.array(opaque.convert("RGB"))
        pixels[equal.all(axis=-1) if equal.ndim == 3 else equal] = 255
        return Image.fromarray(pixels)
    if opaque.has_transparency_data:
        layer = (opaque.convert("LA") if mode == "La" else opaque).convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return opaque if mode == "RGB" else opaque.convert("RGB")


def _grayscale_16_bit(image: Image.Image, key: str) -> Image.Image:
    """Scales 16-bit grayscale to 8 bit; Pillow's own conversion would clip it to white."""
    values = numpy.asarray(image).astype(numpy.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadSample(key, "32-bit pixels", "store 8 or 16 bit")
    return Image.fromarray(((values + 128) // 257).astype(numpy.uint8))


def decode_text(data: bytes, key: str, limits: DecodeLimits) -> str:
    """Decodes a caption with `decode_utf` and applies `clean_text`.

    Raises:
        BadSample: It is empty or too long.
    """
    if len(data) > limits.max_text_bytes:
        raise BadSample(key, "caption too long", f"{len(data)} bytes")
    return clean_text(decode_utf(data), key, limits)


def decode_utf(data: bytes) -> str:
    """Text in UTF-8, or in UTF-16 if its byte-order mark says so; invalid bytes are replaced."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig", errors="replace")


def clean_text(text: str, key: str, limits: DecodeLimits) -> str:
    """A caption without NULs and surrounding whitespace.

    Raises:
        BadSample: It is empty or too long.
    """
    if len(text) > limits.max_text_bytes:
        raise BadSample(key, "caption too long", f"{len(text)} characters")
    cleaned = text.replace("\0", "").strip()
    if not cleaned:
        raise BadSample(key, "no caption", "it is empty")
    return cleaned
