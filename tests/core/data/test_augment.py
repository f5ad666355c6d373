"""Crops against Pillow and torchvision, where they do the same."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import get_args

import numpy
import pytest
import torch
import torchvision.transforms.functional as tv1
import torchvision.transforms.v2.functional as tv2
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.agreement import Agreement
from tests.core.data.making import noise
from vtp_core.data.augmentation import Crop
from vtp_core.data.crops import color
from vtp_core.data.crops.augment import BuiltInAugmentation
from vtp_core.data.crops.geometry import Box, center_crop, random_box, resize, resize_whole
from vtp_core.data.draw import generator
from vtp_core.recipe.tables.augmentation import AugmentationName, BuiltInAugmentationConfig
from vtp_core.testing import check_augmentation

DATA = Path(__file__).resolve().parents[2] / "data"
PLACES = (("global", 0), ("global", 1), ("local", 0))


def picture(height: int, width: int, seed: int = 0) -> numpy.ndarray:
    """A smooth picture with edges, (height, width, 3) uint8."""
    rng = numpy.random.default_rng(seed)
    small = rng.integers(0, 256, (max(height // 6, 2), max(width // 6, 2), 3), dtype=numpy.uint8)
    image = numpy.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    image[height // 3 : height // 2, width // 4 : width // 2] = (250, 10, 40)
    return image


def psnr(a: numpy.ndarray, b: numpy.ndarray) -> float:
    error = ((a.astype(numpy.float64) - b.astype(numpy.float64)) ** 2).mean()
    return float("inf") if error == 0 else float(10 * numpy.log10(255**2 / error))


def crop(
    image: numpy.ndarray,
    augment: str,
    name: str,
    number: int,
    size: int,
    scale: tuple[float, float] | None,
    rng: numpy.random.Generator,
) -> torch.Tensor:
    """A crop by one of the core's own augmentations."""
    augmentation = BuiltInAugmentation(BuiltInAugmentationConfig(use=augment))
    return augmentation(image, Crop(name=name, number=number, size=size, scale=scale), rng)


def hwc(pixels: torch.Tensor) -> numpy.ndarray:
    return pixels.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", [(48, 64), (200, 133), (96, 96)])
@pytest.mark.parametrize(
    "name, method", [("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)]
)
def test_resize_is_pillows(size: tuple[int, int], name: str, method: Image.Resampling) -> None:
    image = picture(150, 180)
    box = Box(10, 21, 97, 120)
    expected = Image.fromarray(image).crop((21, 10, 141, 107)).resize(size[::-1], method)
    assert psnr(hwc(resize(image, box, size, name)), numpy.array(expected)) > 50


def test_resize_to_the_same_size_touches_nothing() -> None:
    image = picture(64, 64)
    numpy.testing.assert_array_equal(hwc(resize(image, None, (64, 64), "bicubic")), image)


@pytest.mark.parametrize("shape", [(64, 64), (100, 70), (301, 517), (260, 129), (40, 200)])
def test_centre_is_the_crop_of_adm(shape: tuple[int, int]) -> None:
    """The reference is ADM's procedure written out with Pillow alone."""
    size = 64
    image = picture(*shape)
    reference = Image.fromarray(image)
    while min(reference.size) >= 2 * size:
        reference = reference.resize((reference.width // 2, reference.height // 2), Image.Resampling.BOX)
    factor = size / min(reference.size)
    sides = round(reference.width * factor), round(reference.height * factor)
    resized = numpy.array(reference.resize(sides, Image.Resampling.BICUBIC))
    top, left = (resized.shape[0] - size) // 2, (resized.shape[1] - size) // 2
    ours = hwc(center_crop(image, size))
    assert ours.shape == (size, size, 3)
    assert psnr(ours, resized[top : top + size, left : left + size]) > 50


def whole_then_cut(image: numpy.ndarray, size: int) -> torch.Tensor:
    """The centre crop of an image that is enlarged as a whole first, however long it is."""
    height, width = image.shape[:2]
    factor = size / min(height, width)
    pixels = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None],
        size=(round(height * factor), round(width * factor)),
        mode="bicubic",
        antialias=True,
        align_corners=False,
    )[0]
    top, left = (pixels.shape[1] - size) // 2, (pixels.shape[2] - size) // 2
    return pixels[:, top : top + size, left : left + size]


@pytest.mark.parametrize("shape", [(64, 64), (200, 200), (20, 20), (300, 200), (90, 400), (7, 50)])
def test_a_whole_image_keeps_its_proportions_and_a_square_one_is_its_crop(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    pixels = resize_whole(image, (64, 64), 8)
    rows, columns = pixels.shape[1:]
    assert min(rows, columns) == 64 and rows % 8 == columns % 8 == 0
    factor = 64 / min(shape)
    assert abs(rows - shape[0] * factor) <= 4 and abs(columns - shape[1] * factor) <= 4
    if shape[0] == shape[1]:
        assert torch.equal(pixels, center_crop(image, 64))
    reference = numpy.array(Image.fromarray(image).resize((columns, rows), Image.Resampling.LANCZOS))
    assert psnr(hwc(pixels), reference) > 25


ORDINARY = [(20, 31), (31, 20), (17, 17), (9, 144), (144, 9), (40, 333), (47, 752), (63, 500), (64, 1100)]


@pytest.mark.parametrize("shape", ORDINARY)
def test_center_crop_of_ordinary_images_is_cut_from_the_whole(shape: tuple[int, int]) -> None:
    image = noise(*shape)
    for size in (48, 64):
        assert torch.equal(center_crop(image, size), whole_then_cut(image, size))


@pytest.mark.parametrize("shape", [(8, 1000), (1000, 8), (9, 301), (31, 900), (900, 30)])
def test_center_crop_of_a_strip_is_that_of_the_whole_strip(shape: tuple[int, int]) -> None:
    """Up to the rounding of the strip's enlarged length to whole pixels."""
    ramp = numpy.linspace(0, 255, max(shape)).astype(numpy.uint8)
    ramp = ramp[:, None] if shape[0] > shape[1] else ramp[None]
    image = numpy.ascontiguousarray(numpy.broadcast_to(ramp[..., None], (*shape, 3)))
    ours, whole = center_crop(image, 48), whole_then_cut(image, 48)
    assert ours.shape == (3, 48, 48)
    assert (ours.int() - whole.int()).abs().max() <= 1
    if 48 % min(shape) == 0:
        strip = noise(*shape)
        assert torch.equal(center_crop(strip, 48), whole_then_cut(strip, 48))


def test_center_crop_never_enlarges_a_whole_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 x 60000 pixels would become 256 x 1920000: 1.5 GB."""
    enlarged: list[int] = []
    interpolate = torch.nn.functional.interpolate

    def noting(pixels: torch.Tensor, size: tuple[int, int], **options: object) -> torch.Tensor:
        enlarged.append(size[0] * size[1])
        return interpolate(pixels, size=size, **options)

    monkeypatch.setattr(torch.nn.functional, "interpolate", noting)
    for shape in ((8, 60_000), (60_000, 8)):
        assert center_crop(numpy.zeros((*shape, 3), dtype=numpy.uint8), 256).shape == (3, 256, 256)
    assert len(enlarged) == 2 and max(enlarged) <= 256 * 256 * 17


@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(lambda pair: (min(pair), max(pair))),
    seed=st.integers(0, 10**6),
)
def test_random_box_lies_inside(height: int, width: int, scale: tuple[float, float], seed: int) -> None:
    box = random_box(height, width, scale, generator("box", seed))
    assert box.height >= 1 and box.width >= 1
    assert 0 <= box.top <= height - box.height and 0 <= box.left <= width - box.width


def test_random_box_is_distributed_as_torchvisions() -> None:
    from torchvision.transforms import RandomResizedCrop

    image = torch.zeros(3, 240, 320)
    torch.manual_seed(0)
    theirs = numpy.array(
        [RandomResizedCrop.get_params(image, [0.1, 0.9], [3 / 4, 4 / 3]) for _ in range(3000)], dtype=float
    )
    boxes = [random_box(240, 320, (0.1, 0.9), generator("boxes", seed)) for seed in range(3000)]
    ours = numpy.array([(box.top, box.left, box.height, box.width) for box in boxes], dtype=float)
    for column in range(4):
        deviation = theirs[:, column].std()
        assert abs(ours[:, column].mean() - theirs[:, column].mean()) < 5 * deviation * (2 / 3000) ** 0.5
        assert ours[:, column].std() == pytest.approx(deviation, rel=0.1)


@pytest.mark.agrees("colour changes of augmentations, of 1", "torchvision", 2e-4)
@pytest.mark.parametrize(
    "ours, theirs",
    [
        (lambda x: color.brightness(x, 1.3), lambda x: tv2.adjust_brightness(x, 1.3)),
        (lambda x: color.contrast(x, 0.6), lambda x: tv2.adjust_contrast(x, 0.6)),
        (lambda x: color.saturation(x, 1.2), lambda x: tv2.adjust_saturation(x, 1.2)),
        (lambda x: color.hue(x, 0.1), lambda x: tv2.adjust_hue(x, 0.1)),
        (lambda x: color.hue(x, -0.07), lambda x: tv2.adjust_hue(x, -0.07)),
        (lambda x: color.blur(x, 0.4), lambda x: tv2.gaussian_blur(x, [9, 9], [0.4, 0.4])),
        (lambda x: color.blur(x, 1.9), lambda x: tv2.gaussian_blur(x, [9, 9], [1.9, 1.9])),
        (lambda x: color.grayscale(x), lambda x: tv1.rgb_to_grayscale(x, 3)),
    ],
)
def test_colour_is_torchvisions_on_floats(ours, theirs, agreement: Agreement) -> None:  # type: ignore[no-untyped-def]
    pixels = torch.from_numpy(picture(50, 70)).permute(2, 0, 1).float()
    # torchvision rounds its grey weights to four digits.
    agreement(ours(pixels.clone()) / 255, theirs(pixels / 255))


def test_hue_is_hsv_of_the_standard_library() -> None:
    values = numpy.random.default_rng(0).integers(0, 256, (40, 3)).astype(numpy.float64)
    values[:4] = [(0, 0, 0), (255, 255, 255), (90, 90, 90), (255, 0, 0)]
    expected = []
    for row in values / 255:
        h, s, v = colorsys.rgb_to_hsv(*row)
        expected.append(colorsys.hsv_to_rgb((h + 0.08) % 1, s, v))
    ours = color.hue(torch.tensor(values.T, dtype=torch.float32)[:, None], 0.08)[:, 0].T / 255
    numpy.testing.assert_allclose(ours.numpy(), numpy.array(expected), atol=1e-5)


@pytest.mark.agrees("solarisation", "pillow", 0)
def test_solarise_is_pillows(agreement: Agreement) -> None:
    from PIL import ImageOps

    image = picture(30, 40)
    expected = numpy.array(ImageOps.solarize(Image.fromarray(image), 128))
    ours = color.solarize(torch.from_numpy(image).permute(2, 0, 1).float())
    agreement(hwc(ours), expected)


def test_blur_of_a_tiny_crop_keeps_a_flat_colour() -> None:
    torch.testing.assert_close(color.blur(torch.full((3, 3, 2), 77.0), 1.0), torch.full((3, 3, 2), 77.0))


@pytest.mark.parametrize(
    ("augment", "blurred"), [("dino", (0.0, 0.9, 0.5)), ("dino_nominal", (1.0, 0.1, 0.5))]
)
def test_solarised_and_blurred_shares_of_dino(
    augment: str, blurred: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On first global, other global and local crops; solarised are 0, 0.2, 0 of them."""
    calls: list[str] = []
    monkeypatch.setattr(color, "blur", lambda pixels, sigma: calls.append("blur") or pixels)
    monkeypatch.setattr(color, "solarize", lambda pixels: calls.append("solarize") or pixels)
    image = picture(16, 16)
    rates = {}
    for name, number in (("global", 0), ("global", 1), ("local", 0)):
        calls.clear()
        for seed in range(400):
            crop(image, augment, name, number, 8, None, generator("rate", name, number, seed))
        rates[name, number] = calls.count("blur") / 400, calls.count("solarize") / 400
    assert rates["global", 0] == (blurred[0], 0)
    assert rates["global", 1] == (pytest.approx(blurred[1], abs=0.07), pytest.approx(0.2, abs=0.08))
    assert rates["local", 0] == (pytest.approx(blurred[2], abs=0.1), 0)


@pytest.mark.parametrize("augment", sorted({*get_args(AugmentationName)} - {"center_flip"}))
def test_pixels_are_those_of_earlier_versions(augment: str) -> None:
    """A resumed run goes on with the same crops. The file was made when augmentations were one function."""
    with numpy.load(DATA / "crops.npz") as file:
        kept = {name: file[name] for name in file.files if name.rpartition("-")[0] == augment}
    assert len(kept) == 2
    for name, expected in kept.items():
        image = picture(*map(int, name.rpartition("-")[2].split("x")))
        places = [(crops, number, seed) for crops, number in PLACES for seed in range(3)]
        ours = [
            crop(image, augment, crops, number, 12, None, generator("golden", augment, crops, number, seed))
            for crops, number, seed in places
        ]
        numpy.testing.assert_array_equal(torch.stack(ours).numpy(), expected)


@pytest.mark.parametrize("augment", get_args(AugmentationName))
def test_the_cores_own_keep_the_rules_of_an_augmentation(augment: str) -> None:
    check_augmentation(BuiltInAugmentation, BuiltInAugmentationConfig(use=augment), seeds=4)


@pytest.mark.parametrize("augment", get_args(AugmentationName))
@pytest.mark.parametrize("shape", [(64, 64), (37, 90), (8, 300)])
def test_every_augmentation_repeats_itself(augment: str, shape: tuple[int, int]) -> None:
    image = picture(*shape)
    before = image.copy()
    first, again = (crop(image, augment, "global", 1, 32, None, generator("crop", seed)) for seed in (0, 0))
    assert first.shape == (3, 32, 32) and first.dtype == torch.uint8
    assert torch.equal(first, again)
    if shape == (64, 64):  # of very wide pictures a random crop is always the central part, as in torchvision
        others = [crop(image, augment, "global", 1, 32, None, generator("crop", seed)) for seed in range(9)]
        same = all(torch.equal(first, other) for other in others)
        assert same == (augment in ("none", "center"))
    numpy.testing.assert_array_equal(image, before)


def test_center_flip_is_the_centre_crop_or_its_mirror_image() -> None:
    image = picture(40, 64)
    centre = crop(image, "center", "global", 0, 16, None, generator("f", 0))
    drawn = [crop(image, "center_flip", "global", 0, 16, None, generator("f", seed)) for seed in range(200)]
    turned = sum(torch.equal(pixels, centre.flip(-1)) for pixels in drawn)
    assert turned + sum(torch.equal(pixels, centre) for pixels in drawn) == 200
    assert turned == pytest.approx(100, abs=30)


def test_clip_never_flips_and_crop_does() -> None:
    """A picture dark on the left stays so under `clip`; under `crop` half of the crops are turned round."""
    image = numpy.tile(numpy.linspace(0, 255, 64).astype(numpy.uint8)[None, :, None], (64, 1, 3))

    def turned(augment: str) -> int:
        drawn = [
            crop(image, augment, "global", 0, 16, (0.9, 1.0), generator("f", seed)) for seed in range(200)
        ]
        return sum(int(pixels[0, 0, 0] > pixels[0, 0, -1]) for pixels in drawn)

    assert turned("clip") == 0
    assert 70 < turned("crop") < 130


def test_scale_of_the_recipe_overrides_the_augmentations() -> None:
    image = picture(90, 90)
    whole = crop(image, "clip", "global", 0, 32, (1.0, 1.0), generator("s", 5))
    part = crop(image, "clip", "global", 0, 32, (0.05, 0.05), generator("s", 5))
    assert psnr(hwc(whole), hwc(part)) < 25
