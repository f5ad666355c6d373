"""`preprocess` and `encode` of everything that is an image: the same picture gives the same pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.core.toy_tokenizer import PATCH, WIDTH, toy_tokenizer
from vtp_core.data.crops.geometry import center_crop
from vtp_core.errors import UsageError

TOKENIZER = toy_tokenizer()
PICTURE = np.random.default_rng(0).integers(0, 256, (20, 28, 3), dtype=np.uint8)
EXPECTED = TOKENIZER.preprocess(Image.fromarray(PICTURE))

SPELLINGS: dict[str, Any] = {
    "PIL": Image.fromarray(PICTURE),
    "HWC": PICTURE,
    "CHW": PICTURE.transpose(2, 0, 1),
    "float64": PICTURE / 255,
    "float32 CHW": (PICTURE.transpose(2, 0, 1) / 255).astype(np.float32),
    "uint16": PICTURE.astype(np.uint16) * 257,
    "opaque RGBA": np.dstack([PICTURE, np.full((20, 28), 255, np.uint8)]),
    "torch": torch.from_numpy(PICTURE),
    "torch CHW with a gradient": torch.from_numpy(PICTURE / 255).permute(2, 0, 1).requires_grad_(),
    "batch HWC": PICTURE[None],
    "batch CHW": torch.from_numpy(PICTURE)[None].permute(0, 3, 1, 2),
    "a list": [PICTURE],
    "a generator": (image for image in [PICTURE]),
}


@pytest.mark.parametrize("image", SPELLINGS.values(), ids=SPELLINGS)
def test_one_picture_in_every_form(image: Any) -> None:
    assert torch.equal(TOKENIZER.preprocess(image), EXPECTED)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(PICTURE).save(path)
    for spelled in (path, str(path), [path], (str(path),)):
        assert torch.equal(TOKENIZER.preprocess(spelled), EXPECTED)
    assert torch.equal(TOKENIZER.encode(path).latent, TOKENIZER.encode(EXPECTED).latent)


def test_different_forms_in_one_batch(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(PICTURE).save(path)
    mixed = TOKENIZER.preprocess([path, PICTURE[:, :20], Image.new("L", (9, 50)), torch.zeros(1, 30, 30)])
    assert mixed.shape == (4, 3, 16, 16)
    assert torch.equal(mixed[:1], EXPECTED) and torch.equal(mixed[2], mixed[3])


def test_gray_and_transparent_arrays() -> None:
    gray = TOKENIZER.preprocess(Image.fromarray(PICTURE[..., 0]))
    for array in (PICTURE[..., 0], PICTURE[..., :1], PICTURE[None, ..., 0]):
        assert torch.equal(TOKENIZER.preprocess(array), gray)
    clear = np.zeros((20, 20, 4), np.uint8)
    assert torch.equal(TOKENIZER.preprocess(clear), TOKENIZER.preprocess(Image.new("RGB", (20, 20), "white")))


@given(st.integers(0, 255), st.sampled_from(["float16", "float32", "float64", "bfloat16"]))
def test_floats_are_rounded_to_the_same_8_bit(value: int, dtype: str) -> None:
    """float16 and bfloat16 carry 8 bit up to their own rounding."""
    unit = torch.full((16, 16, 3), value / 255, dtype=getattr(torch, dtype))
    pixels = TOKENIZER.preprocess(unit)
    expected = round(float(unit[0, 0, 0].double()) * 255)
    assert torch.equal(pixels, TOKENIZER.preprocess(np.full((16, 16, 3), expected, np.uint8)))
    assert abs(expected - value) <= (0 if dtype != "bfloat16" else 1)


@pytest.mark.parametrize("size", [16, 32, (16, 32), (64, 8)])
def test_a_size_that_is_asked_for(size: int | tuple[int, int]) -> None:
    pixels = TOKENIZER.preprocess([PICTURE], size)
    rows, columns = (size, size) if isinstance(size, int) else size
    assert pixels.shape == (1, 3, rows, columns)
    assert TOKENIZER.encode(pixels).latent.shape == (1, WIDTH, rows // PATCH, columns // PATCH)
    bare = toy_tokenizer()
    bare.config = None
    assert torch.equal(bare.preprocess([PICTURE], size), pixels)


@given(st.tuples(*[st.integers(8, 90)] * 2), st.tuples(*[st.integers(1, 40)] * 2))
def test_a_rectangle_is_the_center_of_an_image_that_just_covers_it(
    shape: tuple[int, int], size: tuple[int, int]
) -> None:
    """Positions by a ramp in each direction: the crop's middle is the image's, within two pixels."""
    rows, columns = (np.linspace(0, 255, side) for side in shape)
    ramps = (
        np.stack([*np.meshgrid(rows, columns, indexing="ij"), np.zeros(shape)], -1).round().astype(np.uint8)
    )
    crop = center_crop(ramps, size).double()
    assert crop.shape == (3, *size)
    factor = max(size[0] / shape[0], size[1] / shape[1])
    for axis in (0, 1):
        step = 255 / max(1, shape[axis] - 1)  # of the ramp, for a pixel of the image
        assert abs(crop[axis].mean().item() - 127.5) <= 1 + 2 * step * max(1.0, 1 / factor)
        if size[axis] / shape[axis] == factor and size[axis] > 4:  # this side is there from end to end
            assert np.ptp(crop[axis].mean(1 - axis).numpy()) > 255 * (1 - 2.5 / min(size[axis], shape[axis]))


REFUSED: dict[str, tuple[Any, str]] = {
    "a number": (3, "got int; give paths, PIL images or arrays"),
    "nothing": (None, "got NoneType"),
    "bytes": (b"png", "got bytes"),
    "a dictionary": ({"image": PICTURE}, "got dict"),
    "a number among images": ([PICTURE, 3], "image 1 is a int"),
    "a missing file": ("nowhere.png", "nowhere.png: unreadable"),
    "a folder": ("/", "/: unreadable \\(not a regular file\\)"),
    "a batch among images": ([PICTURE[None]], r"image 0 has shape \(1, 20, 28, 3\)"),
    "two channels": (PICTURE[..., :2], r"image 0 has shape \(20, 28, 2\); expected"),
    "a batch without channels": (np.zeros((9, 20, 20), np.uint8), r"image 0 has shape \(9, 20, 20\)"),
    "five axes": (np.zeros((1, 1, 3, 20, 20)), r"shape \(1, 1, 3, 20, 20\)"),
    "no pixels": (np.zeros((0, 20, 3), np.uint8), r"shape \(0, 20, 3\)"),
    "a small one": (PICTURE[:4], "image 0: too small"),
    "whole numbers": (PICTURE.astype(np.int64), "image 0 is int64; expected uint8"),
    "booleans": (PICTURE > 9, "image 0 is bool"),
    "objects": (np.array([[None] * 20] * 20), "image 0 is object"),
    "floats to 255": (PICTURE.astype(np.float32), r"floats of 0 to 255, expected \[0, 1\]"),
    "normalised floats": (EXPECTED.numpy(), r"expected \[0, 1\]; .* to encode\(\) as a tensor"),
    "NaN": (np.full((20, 20, 3), np.nan), r"floats of nan to nan, expected \[0, 1\]"),
    "mode F": (Image.new("F", (20, 20)), "image 0: floating-point pixels"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("images", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("call", ["preprocess", "encode"])
def test_what_is_no_image_is_refused_in_one_line(call: str, images: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"^preprocess: .*{message}") as caught:
        getattr(TOKENIZER, call)(images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, -4, 18, 16.0, True, "16", (16,), (16, 16, 16), (16, 18), None])
def test_a_size_that_does_not_fit_is_refused(size: Any) -> None:
    bare = toy_tokenizer()
    bare.config = None
    with pytest.raises(
        UsageError, match=r"^preprocess: (size must be a multiple of the patch 4|.* give size=)"
    ):
        bare.preprocess(PICTURE, size)
