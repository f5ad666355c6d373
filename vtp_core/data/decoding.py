"""Decodes untrusted images and captions. Imports no torch.

Sizes are checked in the header, before any pixel is decoded; nothing is unpickled or executed; a damaged
image is a `BadSample`, never a partly grey image. `docs/data.md` has the table of conversions.
"""

from __future__ import annotations

import io
import warnings

import numpy
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vtp_core.data.source import BadSample
from vtp_core.recipe.tables.data import DecodeLimits

# Formats that can't run code or start other programs (EPS would start Ghostscript), if Pillow has them.
Image.init()
_FORMATS = tuple(name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF") if name in Image.OPEN)


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
        raise BadSample(key, "image file too large", f"{len(data)} bytes")
    try:
        with warnings.catch_warnings():
            # Pillow warns of unreadable metadata, and of sizes for which there is a limit here.
            warnings.simplefilter("ignore")
            return _decode(data, key, limits)
    except BadSample:
        raise
    except Image.DecompressionBombError as error:
        raise BadSample(key, "too many pixels", str(error)) from error
    except UnidentifiedImageError as error:
        raise BadSample(key, "not an image", f"starts with {data[:16]!r}") from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        what = "truncated image" if "truncated" in str(error) else "damaged image"
        raise BadSample(key, what, f"{type(error).__name__}: {error}") from error


def _decode(data: bytes, key: str, limits: DecodeLimits) -> NDArray[numpy.uint8]:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        width, height = image.size
        if width * height > limits.max_pixels:
            raise BadSample(key, "too many pixels", f"{width}x{height} is over {limits.max_pixels}")
        if min(width, height) < limits.min_side:
            raise BadSample(key, "too small", f"{width}x{height} is under {limits.min_side}")
        image.load()
        if _has_readable_orientation(image):
            ImageOps.exif_transpose(image, in_place=True)
        return numpy.array(_rgb(image, key))


def _has_readable_orientation(image: Image.Image) -> bool:
    """Whether Pillow can read the orientation; a damaged tag counts as none, as in browsers."""
    try:
        image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return False
    # Else Pillow would also write the other tags again, which fails if one of them is damaged.
    for key in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
        image.info.pop(key, None)
    return True


def _rgb(image: Image.Image, key: str) -> Image.Image:
    mode = image.mode
    if mode == "RGB":
        return image
    if mode.startswith("I"):
        return _grayscale_16_bit(image, key)
    if mode == "F":
        raise BadSample(key, "floating-point pixels", "store 8 or 16 bit")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _grayscale_16_bit(image: Image.Image, key: str) -> Image.Image:
    """Scales 16-bit grayscale to 8 bit; Pillow's own conversion would clip it to white."""
    values = numpy.asarray(image).astype(numpy.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadSample(key, "32-bit pixels", "store 8 or 16 bit")
    return Image.fromarray(((values + 128) // 257).astype(numpy.uint8)).convert("RGB")


def decode_text(data: bytes, key: str, limits: DecodeLimits) -> str:
    """Decodes a caption from UTF-8, with invalid bytes replaced, and applies `clean_text`.

    Raises:
        BadSample: It is empty or too long.
    """
    if len(data) > limits.max_text_bytes:
        raise BadSample(key, "caption too long", f"{len(data)} bytes")
    return clean_text(data.decode("utf-8", errors="replace"), key, limits)


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
