"""What reconstructions are shown beside: other tokenizers, and JPEG files of the latent's size."""

from __future__ import annotations

import io
import math
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vtp_core.batch import Batch
from vtp_core.encoded import Encoded
from vtp_core.evaluation.evaluator import Observation
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import size_text

HALF_PRECISION = 2
"""Bytes of a number of a continuous latent, as the report counts them."""
QUALITIES = (1, 100)
SAMPLINGS = (0, 2)
"""Chroma at full and at half resolution, Pillow's 4:4:4 and 4:2:0."""


class Reference(Protocol):
    """Another way to keep an image."""

    title: str
    note: str

    def outputs(self, seen: Observation) -> list[tuple[Tensor, int] | None]:
        """Image (3, H, W) uint8 and its bytes, for each image of a batch; None where it can't keep one."""
        ...


class TokenizerReference:
    """Reconstructions of another tokenizer.

    Args:
        title: Its name.
        model: In eval mode, with a decoder.
    """

    def __init__(self, title: str, model: Tokenizer) -> None:
        self.title = title
        self.model = model
        trained = f", trained at {size_text(model.config.image_size)} px" if model.config is not None else ""
        self.note = f"a tokenizer that ships with a plugin{trained}; it may have seen these images"

    def outputs(self, seen: Observation) -> list[tuple[Tensor, int] | None]:
        """None for images whose sides are no multiples of its patch."""
        batch: Batch = seen.batch
        patch = self.model.encoder.patch
        if any(side % patch for side in batch.image.shape[-2:]):
            return [None] * len(batch)
        own = Observation(self.model, batch, seen.split)
        size = latent_bytes(self.model, own.encoded)
        return [(image, size) for image in own.reconstruction]


class JpegReference:
    """JPEG files of at most a number of bytes, as Pillow writes them.

    Args:
        limit: Bytes of an image.
    """

    def __init__(self, limit: int) -> None:
        self.title = "JPEG"
        self.note = f"files of at most {limit} bytes, the size of the latent"
        self.limit = limit

    def outputs(self, seen: Observation) -> list[tuple[Tensor, int] | None]:
        """None where even the lowest quality takes more bytes."""
        found: list[tuple[Tensor, int] | None] = []
        for image in seen.image.permute(0, 2, 3, 1).cpu().numpy():
            kept = jpeg_within(image, self.limit)
            found.append(kept and (torch.from_numpy(kept[0].copy()).permute(2, 0, 1), kept[1]))
        return found


def latent_bytes(model: Tokenizer, encoded: Encoded) -> int:
    """Bytes of one image's latent: its codes, or its numbers in half precision."""
    if encoded.indices is None:
        return HALF_PRECISION * math.prod(encoded.latent.shape[1:])
    bits = sum(math.ceil(math.log2(max(size, 2))) for size in model.bottleneck.codebook_sizes)
    return math.ceil(bits * math.prod(encoded.indices.shape[2:]) / 8)


def jpeg_within(image: NDArray[np.uint8], limit: int) -> tuple[NDArray[np.uint8], int] | None:
    """The best JPEG (by squared error) of at most `limit` bytes, decoded, and its bytes.

    For each chroma sampling, the highest quality that fits is found by bisection.

    Args:
        image: (H, W, 3).
        limit: Bytes of the whole file.
    """
    picture = Image.fromarray(image)
    found: list[tuple[float, NDArray[np.uint8], int]] = []
    for sampling in SAMPLINGS:
        low, high = QUALITIES
        best: bytes | None = None
        while low <= high:
            middle = (low + high) // 2
            data = _jpeg(picture, middle, sampling)
            if len(data) <= limit:
                best, low = data, middle + 1
            else:
                high = middle - 1
        if best is not None:
            with Image.open(io.BytesIO(best), formats=["JPEG"]) as opened:
                decoded = np.asarray(opened.convert("RGB"))
            error = float(np.square(decoded.astype(np.float64) - image).mean())
            found.append((error, decoded, len(best)))
    if not found:
        return None
    _, decoded, size = min(found, key=lambda item: item[0])
    return decoded, size


def _jpeg(picture: Image.Image, quality: int, sampling: int) -> bytes:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality, subsampling=sampling, optimize=True)
    return data.getvalue()
