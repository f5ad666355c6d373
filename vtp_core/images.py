"""Conversion between PIL images and pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vtp_core.data.crops.geometry import center_crop
from vtp_core.errors import UsageError
from vtp_core.pixels import normalize, to_uint8


def rgb(image: Image.Image) -> Image.Image:
    """The image as 8-bit RGB: EXIF orientation applied, transparency composited over white."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        gray = (np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8)
        return Image.fromarray(gray).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def pixels_of(images: Sequence[Image.Image], size: int) -> Tensor:
    """Pixels (B, 3, size, size) float32, ImageNet-normalised, by the centre crop that evaluation uses."""
    if not images:
        raise UsageError("preprocess: no images given")
    crops = [center_crop(np.array(rgb(image)), size) for image in images]
    return normalize(torch.stack(crops).float() / 255)


def images_of(pixels: Tensor) -> list[Image.Image]:
    """8-bit images of ImageNet-normalised pixels (B, 3, H, W)."""
    if pixels.dim() != 4 or pixels.shape[1] != 3:
        raise UsageError(f"postprocess: expected pixels (B, 3, H, W), got {tuple(pixels.shape)}")
    arrays = to_uint8(pixels.detach(), "imagenet").permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]
