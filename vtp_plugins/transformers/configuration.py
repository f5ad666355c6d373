"""The configuration of a tokenizer in transformers."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from vtp_plugins.transformers_format.reader import MODEL_TYPE


@strict
class VtpTokenizerConfig(PreTrainedConfig):
    """Holds the artefact's config, from which the networks are built.

    Attributes:
        artefact: The artefact's ``config.json``, with the statistics of the latents.
        image_size: Side of the images in pixels, or rows and columns.
        patch_size: Pixels a position side; the sides of images are multiples of it.
        num_channels: Of the images.
        hidden_size: Width of the encoder's tokens.
        latent_channels: Of the latent.
        projection_dim: Width of image and text embeddings; None: there are none.
    """

    model_type = MODEL_TYPE

    artefact: dict[str, Any] | None = None
    image_size: int | list[int] | tuple[int, int] = 256
    patch_size: int = 16
    num_channels: int = 3
    hidden_size: int | None = None
    latent_channels: int | None = None
    projection_dim: int | None = None
