"""Conversion between PIL images and pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vtp_core.data.crops.geometry import center_crop
from vtp_core.data.decoding import convert_image
from vtp_core.data.source import BadSample
from vtp_core.encoded import require_finite
from vtp_core.errors import UsageError
from vtp_core.pixels import normalize, to_uint8
from vtp_core.recipe.tables.data import DecodeLimits


def pixels_of(images: Sequence[Image.Image], size: int) -> Tensor:
    """Pixels (B, 3, size, size) float32, ImageNet-normalised, by the conversion and crop of evaluation."""
    if not images:
        raise UsageError("preprocess: no images given")
    crops = []
    for index, image in enumerate(images):
        if not isinstance(image, Image.Image):
            raise UsageError(f"preprocess: image {index} is a {type(image).__name__}; give PIL images")
        try:
            rgb = convert_image(image, f"image {index}", DecodeLimits())
        except BadSample as error:
            raise UsageError(f"preprocess: {error}") from error
        crops.append(center_crop(np.array(rgb), size))
    return normalize(torch.stack(crops).float() / 255)


def images_of(pixels: Tensor) -> list[Image.Image]:
    """8-bit images of ImageNet-normalised pixels (B, 3, H, W); NumericError if one is not finite."""
    if pixels.dim() != 4 or pixels.shape[1] != 3:
        raise UsageError(f"postprocess: expected pixels (B, 3, H, W), got {tuple(pixels.shape)}")
    require_finite("postprocess", {"the pixels are": pixels})
    arrays = to_uint8(pixels.detach(), "imagenet").permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]
