"""PIL images to pixels and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vtp_core.errors import UsageError
from vtp_core.pixels import normalise, to_uint8


def rgb(image: Image.Image) -> Image.Image:
    """The image upright, 8 bit, RGB, transparent parts over white."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        return Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer).convert("RGB")
    return image.convert("RGB")


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """The centre square at `size`: halved by box filter while twice too large, then bicubic (ADM's crop)."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = max(size, round(image.width * scale)), max(size, round(image.height * scale))
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def pixels_of(images: Sequence[Image.Image], size: int) -> Tensor:
    """Pixels (B, 3, size, size) float32, ImageNet-normalised."""
    if not images:
        raise UsageError("preprocess: no images given")
    arrays = [np.asarray(centre_crop(rgb(image), size)) for image in images]
    return normalise(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255)


def images_of(pixels: Tensor) -> list[Image.Image]:
    """8-bit images of ImageNet-normalised pixels (B, 3, H, W)."""
    if pixels.dim() != 4 or pixels.shape[1] != 3:
        raise UsageError(f"postprocess: expected pixels (B, 3, H, W), got {tuple(pixels.shape)}")
    arrays = to_uint8(pixels.detach(), "imagenet").permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]
