"""Decoding: the table of conversions, and damage that is named."""

from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.core.data.making import encoded, noise
from tests.pickled_code import PickledCode
from vtp_core.data.decoding import clean_text, convert_image, decode_image, decode_text, read_file
from vtp_core.data.source import BadSample
from vtp_core.recipe.tables.data import DecodeLimits

LIMITS = DecodeLimits()


def reason(data: bytes, limits: DecodeLimits = LIMITS) -> str:
    with pytest.raises(BadSample) as error:
        decode_image(data, "key", limits)
    assert error.value.key == "key"
    return error.value.reason


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF"])
def test_lossless_formats_keep_every_pixel(format: str) -> None:
    image = noise(20, 30)
    options = {"lossless": True} if format == "WEBP" else {}
    numpy.testing.assert_array_equal(decode_image(encoded(image, format, **options), "k", LIMITS), image)


def test_jpeg_is_what_pillow_decodes() -> None:
    data = encoded(noise(40, 40), "JPEG", quality=90)
    expected = numpy.array(Image.open(io.BytesIO(data)))
    numpy.testing.assert_array_equal(decode_image(data, "k", LIMITS), expected)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_truncated_image_is_bad_never_grey(format: str, share: float) -> None:
    data = encoded(noise(64, 64), format)
    assert reason(data[: int(len(data) * share)]) in {"truncated image", "damaged image"}


@pytest.mark.parametrize(
    "data, expected",
    [(b"", "empty image"), (b"<html>not found</html>", "not an image"), (b"\xff\xd8\xff", "not an image")],
)
def test_what_is_no_image(data: bytes, expected: str) -> None:
    assert reason(data) in {expected, "damaged image"}


def bomb(side: int) -> bytes:
    """A PNG that claims side x side pixels and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 15_000, 60_000])
def test_bombs_are_refused_by_their_header(side: int) -> None:
    assert reason(bomb(side)) == "too many pixels"


def test_limits_are_the_recipes() -> None:
    data = encoded(noise(20, 30))
    assert reason(data, DecodeLimits(max_pixels=599)) == "too many pixels"
    assert decode_image(data, "k", DecodeLimits(max_pixels=600)).shape == (20, 30, 3)
    assert reason(data, DecodeLimits(max_bytes=100)) == "image file too large"
    assert reason(data, DecodeLimits(min_side=21)) == "too small"
    assert reason(encoded(noise(1, 1))) == "too small"


def test_transparency_is_laid_over_white() -> None:
    pixels = numpy.zeros((16, 16, 4), dtype=numpy.uint8)
    pixels[:8] = (200, 0, 0, 255)
    pixels[8:] = (200, 0, 0, 0)
    pixels[0, 0] = (0, 0, 0, 128)
    image = decode_image(encoded(pixels), "k", LIMITS)
    assert image[4, 4].tolist() == [200, 0, 0]
    assert image[12, 4].tolist() == [255, 255, 255]
    assert abs(int(image[0, 0, 0]) - 127) <= 1


def test_transparent_palette_is_laid_over_white() -> None:
    picture = Image.new("P", (16, 16), 0)
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.paste(1, (0, 0, 8, 16))
    image = decode_image(encoded(picture, transparency=0), "k", LIMITS)
    assert image[3, 3].tolist() == [40, 50, 60] and image[3, 12].tolist() == [255, 255, 255]
    plain = decode_image(encoded(picture), "k", LIMITS)
    assert plain[3, 12].tolist() == [10, 20, 30]


def png(depth: int, color: int, row: bytes, transparent: bytes) -> bytes:
    """A PNG of 8 x 8 pixels, all rows alike, whose tRNS chunk names a transparent value."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 8, 8, depth, color, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * 8)
    body = chunk(b"IHDR", header) + chunk(b"tRNS", transparent) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


TRANSPARENT = {
    "rgb": (8, 2, bytes([200, 10, 10] * 4 + [0, 0, 255] * 4), struct.pack(">3H", 200, 10, 10), [0, 0, 255]),
    "rgb 16 bit": (
        16,
        2,
        struct.pack(">24H", *[51218, 300, 0] * 4, *[0, 0, 65535] * 4),
        struct.pack(">3H", 51218, 300, 0),
        [0, 0, 255],
    ),
    "grey": (8, 0, bytes([30] * 4 + [90] * 4), struct.pack(">H", 30), [90] * 3),
    "grey 16 bit": (
        16,
        0,
        struct.pack(">8H", *[1000] * 4, *[257 * 90] * 4),
        struct.pack(">H", 1000),
        [90] * 3,
    ),
    "grey 4 bit": (4, 0, b"\x33\x33\xaa\xaa", struct.pack(">H", 3), [170] * 3),
    "grey 2 bit": (2, 0, b"\x55\xaa", struct.pack(">H", 1), [170] * 3),
    "1 bit": (1, 0, b"\x0f", struct.pack(">H", 0), [255] * 3),
}
"""Depth, colour type, a row of 4 transparent and 4 other pixels, the transparent value, the others' RGB."""


@pytest.mark.parametrize("name", TRANSPARENT)
@pytest.mark.parametrize("opened", [False, True])
def test_a_transparent_value_is_laid_over_white(name: str, opened: bool) -> None:
    depth, color, row, transparent, other = TRANSPARENT[name]
    data = png(depth, color, row, transparent)
    if opened:
        image = numpy.array(convert_image(Image.open(io.BytesIO(data)), "k", LIMITS))
    else:
        image = decode_image(data, "k", LIMITS)
    assert (image[:, :4] == 255).all()
    assert (image[:, 4:] == other).all()


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "I;16"]
)
def test_an_opened_image_is_converted_as_its_file(mode: str) -> None:
    picture = Image.fromarray(noise()).convert("RGBA" if mode == "RGBa" else "LA" if mode == "La" else "RGB")
    picture = picture.convert("L").convert(mode) if mode == "I;16" else picture.convert(mode)
    converted = convert_image(picture, "k", LIMITS)
    assert converted.mode == "RGB"
    if mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        numpy.testing.assert_array_equal(numpy.array(converted), decode_image(encoded(picture), "k", LIMITS))


def test_an_opened_image_has_the_limits_of_its_file() -> None:
    floats = Image.fromarray(numpy.linspace(0, 1, 256, dtype=numpy.float32).reshape(16, 16))
    cases = {
        "floating-point pixels": floats,
        "32-bit pixels": Image.fromarray(numpy.full((16, 16), 70_000, dtype=numpy.int32)),
        "too many pixels": Image.new("L", (10_000, 10_000)),
        "too small": Image.new("L", (7, 100)),
        "not an image": Image.open(io.BytesIO(encoded(noise(), "PPM"))),
        "truncated image": Image.open(io.BytesIO(encoded(noise(64, 64), "JPEG")[:1500])),
    }
    for expected, image in cases.items():
        with pytest.raises(BadSample) as error:
            convert_image(image, "key", LIMITS)
        assert error.value.reason == expected


def test_only_regular_files_are_read_and_no_more_than_allowed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("pipe.png", "none.png", "nul\0.png", "."):
        with pytest.raises(BadSample, match="unreadable"):
            read_file(tmp_path / name, "key", 10)
    (tmp_path / "a").write_bytes(b"0123456789ab")
    assert read_file(tmp_path / "a", "key", 12) == b"0123456789ab"
    assert read_file(tmp_path / "a", "key", 5) == b"012345"


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_becomes_three_equal_channels(mode: str) -> None:
    image = decode_image(encoded(Image.fromarray(noise()).convert(mode)), "k", LIMITS)
    assert image.shape == (24, 24, 3)
    assert (image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all()


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = numpy.linspace(0, 65535, 256).round().astype(numpy.uint16).reshape(16, 16)
    image = decode_image(encoded(Image.fromarray(values)), "k", LIMITS)
    numpy.testing.assert_array_equal(image[..., 0].ravel(), numpy.arange(256))


def test_cmyk_becomes_rgb() -> None:
    picture = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    image = decode_image(encoded(picture, "JPEG", quality=100), "k", LIMITS)
    assert image[8, 8, 0] > 250 and image[8, 8, 1:].max() < 5


def test_floating_point_pixels_are_bad() -> None:
    picture = Image.fromarray(numpy.ones((16, 16), dtype=numpy.float32))
    assert reason(encoded(picture, "TIFF")) == "floating-point pixels"


UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[::-1],
}
"""Orientation tag -> stored pixels to upright ones, by the drawings of the EXIF standard (JEITA CP-3451C)."""


def with_orientation(image: Image.Image, format: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    return encoded(image, format, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("format", "mode"),
    [("PNG", mode) for mode in ("RGB", "L", "P", "RGBA", "I;16")]
    + [("TIFF", "RGB"), ("TIFF", "I;16"), ("WEBP", "RGB"), ("WEBP", "RGBA"), ("JPEG", "RGB"), ("JPEG", "L")],
)
def test_exif_orientation_is_applied(orientation: int, format: str, mode: str) -> None:
    picture = Image.fromarray(noise(16, 24))
    if mode == "I;16":
        picture = Image.fromarray(noise(16, 24)[..., 0].astype(numpy.uint16) * 257)
    elif mode == "P":
        picture = picture.quantize(16)
    else:
        picture = picture.convert(mode)
    stored = decode_image(with_orientation(picture, format, 1), "k", LIMITS)
    upright = decode_image(with_orientation(picture, format, orientation), "k", LIMITS)
    numpy.testing.assert_array_equal(upright, UPRIGHT[orientation](stored))


def test_orientation_is_applied_where_pillow_cannot_write_the_other_tags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = noise(16, 24)
    data = with_orientation(Image.fromarray(image), "PNG", 6)
    monkeypatch.setattr(Image.Exif, "tobytes", None)
    numpy.testing.assert_array_equal(decode_image(data, "k", LIMITS), UPRIGHT[6](image))


def test_an_image_that_cannot_be_turned_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_orientation(Image.fromarray(noise(16, 24)), "PNG", 6)
    monkeypatch.setattr(Image.Image, "transpose", lambda image, method: 1 / 0)
    assert reason(data) == "damaged image"


def test_damaged_exif_counts_as_none() -> None:
    image = noise(16, 24)
    for exif in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM", b"\0" * 40):
        numpy.testing.assert_array_equal(decode_image(encoded(image, "PNG", exif=exif), "k", LIMITS), image)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data, "k", LIMITS)[8, 8].tolist() == [255, 0, 0]


def test_pickles_and_postscript_never_run(tmp_path: Path) -> None:
    payload = pickle.dumps(PickledCode(tmp_path / "ran"))
    assert reason(payload) == "not an image"
    assert (
        reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n")
        == "not an image"
    )
    assert not (tmp_path / "ran").exists()


@given(
    format=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]),
    place=st.floats(0, 0.999),
    bytes_=st.binary(min_size=1, max_size=12),
)
def test_damaged_bytes_give_pixels_or_a_bad_sample(format: str, place: float, bytes_: bytes) -> None:
    data = bytearray(encoded(noise(16, 16), format))
    start = int(place * len(data))
    data[start : start + len(bytes_)] = bytes_
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            image = decode_image(bytes(data), "k", DecodeLimits(max_pixels=100_000))
        except BadSample as error:
            assert error.reason
        else:
            assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == numpy.uint8


def test_captions_are_cleaned() -> None:
    assert decode_text(b"  a \xff dog\0\n", "k", LIMITS) == "a � dog"
    assert clean_text("שלום\0", "k", LIMITS) == "שלום"
    for data, expected in ((b" \0\n", "no caption"), (b"x" * 70_000, "caption too long")):
        with pytest.raises(BadSample) as error:
            decode_text(data, "k", LIMITS)
        assert error.value.reason == expected
