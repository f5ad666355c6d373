"""The image processor: what `Tokenizer.preprocess` does."""

from __future__ import annotations

from typing import Any

from PIL.Image import Image
from torch import Tensor
from transformers import BaseImageProcessor, BatchFeature

from vtp_core.tokenizer.images import Images, images_of, pixels_of


class VtpImageProcessor(BaseImageProcessor):
    """Images to pixels by the conversion to RGB, the resize and the centre crop of evaluation.

    Args:
        crop_size: ``{"height": ..., "width": ...}`` of the pixels.
    """

    model_input_names = ["pixel_values"]

    def __init__(self, crop_size: dict[str, int] | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.crop_size = dict(crop_size or {"height": 256, "width": 256})

    def __call__(
        self,
        images: Images,
        *,
        crop_size: dict[str, int] | None = None,
        return_tensors: str | None = None,
        **settings: Any,
    ) -> BatchFeature:
        """As `preprocess`."""
        return self.preprocess(images, crop_size=crop_size, return_tensors=return_tensors, **settings)

    def preprocess(
        self,
        images: Images,
        *,
        crop_size: dict[str, int] | None = None,
        return_tensors: str | None = None,
        **settings: Any,
    ) -> BatchFeature:
        """Pixels of images.

        Args:
            images: A path, a PIL image or an array, a batch in one array, or several of these.
            crop_size: Other height and width.
            return_tensors: ``"pt"`` or ``"np"``.
            settings: None is known.

        Returns:
            ``pixel_values`` (B, 3, H, W), ImageNet-normalised.

        Raises:
            TypeError: Another setting.
            UsageError: Something that is no image.
        """
        if settings:
            raise TypeError(f"{type(self).__name__} has no setting {next(iter(settings))!r}")
        size = crop_size or self.crop_size
        pixels = pixels_of(images, (size["height"], size["width"]))
        return BatchFeature({"pixel_values": pixels.numpy()}, tensor_type=return_tensors)

    def postprocess(self, pixels: Tensor) -> list[Image]:
        """8-bit images of pixels (B, 3, H, W), clamped and rounded."""
        return images_of(pixels)
