"""Conversion between images (files, PIL images, arrays) and pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vtp_core.data.crops.geometry import center_crop
from vtp_core.data.decoding import convert_image, decode_image, read_file
from vtp_core.data.source import BadSample
from vtp_core.encoded import require_finite
from vtp_core.errors import UsageError
from vtp_core.pixels import normalize, to_uint8
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_core.tokenizer.checks import check_float

if TYPE_CHECKING:
    from vtp_core.tokenizer.model import Tokenizer

OneImage = Image.Image | str | os.PathLike[str] | NDArray[Any] | Tensor
Images = OneImage | Iterable[OneImage]
"""A path, a PIL image or an array (NumPy or torch), a batch in one array, or several of these."""

_ACCEPTED = "give paths, PIL images or arrays"


def pixels_of(images: Images, size: tuple[int, int]) -> Tensor:
    """Pixels (B, 3, rows, columns) float32, ImageNet-normalised, by the conversion and crop of evaluation.

    Raises:
        UsageError: Something that is no image, or an image that `vtp_core.data.decoding` refuses.
    """
    limits, crops = DecodeLimits(), []
    for index, image in enumerate(_listed(images)):
        try:
            crops.append(center_crop(_rgb(image, f"image {index}", limits), size))
        except BadSample as error:
            raise UsageError(f"preprocess: {error}") from error
    unit = torch.stack(crops).float() / 255 if crops else torch.empty(0, 3, *size)
    return normalize(unit)


def images_of(pixels: Tensor) -> list[Image.Image]:
    """8-bit images of ImageNet-normalised pixels (B, 3, H, W).

    Raises:
        NumericError: A pixel is not finite.
        UsageError: Another shape or dtype.
    """
    check_float("postprocess", "float pixels (B, 3, H, W), as of decode().sample", pixels)
    if pixels.dim() != 4 or pixels.shape[1] != 3 or 0 in pixels.shape[2:]:
        raise UsageError(f"postprocess: expected pixels (B, 3, H, W), got {tuple(pixels.shape)}")
    require_finite("postprocess", {"the pixels are": pixels})
    arrays = to_uint8(pixels.detach(), "imagenet").permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]


@torch.no_grad()
def side_by_side(tokenizer: Tokenizer, images: Tensor | Images) -> list[Image.Image]:
    """Each image (left) beside its reconstruction (right), as `Tokenizer.reconstruct` returns them.

    Raises:
        UsageError: No images, no decoder, or one that makes images of another size than those given.
    """
    pixels = images if isinstance(images, Tensor) else tokenizer.preprocess(images)
    decoded = tokenizer.decode(tokenizer.encode(pixels).latent).sample
    if decoded.shape != pixels.shape:
        given, made = (" x ".join(map(str, each.shape[-2:])) for each in (pixels, decoded))
        raise UsageError(
            f"reconstruct: images of {given} come back as {made}; give images and preprocess() sizes them"
        )
    return images_of(torch.cat((pixels.to(decoded), decoded), -1))


def _listed(images: object) -> list[object]:
    """The single images of an argument."""
    if isinstance(images, Image.Image | str | os.PathLike):
        return [images]
    if isinstance(images, Tensor | np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, bytes | bytearray | memoryview | dict) or not isinstance(images, Iterable):
        raise UsageError(f"preprocess: got {type(images).__name__}; {_ACCEPTED}")
    return list(images)


def _rgb(image: object, key: str, limits: DecodeLimits) -> NDArray[np.uint8]:
    """(H, W, 3) of one image."""
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        return decode_image(read_file(path, str(path), limits.max_bytes), str(path), limits)
    if isinstance(image, Tensor | np.ndarray):
        image = _of_array(image, key)
    if not isinstance(image, Image.Image):
        raise UsageError(f"preprocess: {key} is a {type(image).__name__}; {_ACCEPTED}")
    return np.array(convert_image(image, key, limits))


def _of_array(image: Tensor | NDArray[Any], key: str) -> Image.Image:
    """A PIL image of an array, whose axis of 1, 3 or 4 channels is the last one or the first."""
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    channels, array = (1, 3, 4), image
    if array.ndim == 3 and array.shape[2] not in channels and array.shape[0] in channels:
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not array.size or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in channels):
        raise UsageError(
            f"preprocess: {key} has shape {image.shape}; expected (H, W), (H, W, C) or (C, H, W) with "
            "1, 3 or 4 channels"
        )
    return Image.fromarray(np.ascontiguousarray(_eight_bit(array, key)))


def _eight_bit(array: NDArray[Any], key: str) -> NDArray[np.uint8]:
    """uint8 as it is, uint16 scaled, float in [0, 1] rounded."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return ((array.astype(np.int64) + 128) // 257).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise UsageError(f"preprocess: {key} is {array.dtype}; expected uint8, uint16 or float in [0, 1]")
    least, most = float(array.min()), float(array.max())
    if not 0 <= least <= most <= 1:  # NaN too
        raise UsageError(
            f"preprocess: {key} has floats of {least:g} to {most:g}, expected [0, 1]; give uint8 for 0 to "
            "255, or normalised pixels to encode() as a tensor"
        )
    return np.rint(array.astype(np.float64) * 255).astype(np.uint8)
