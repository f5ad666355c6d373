"""Vectors of an encoder's features, for a forecast of codebooks."""

from __future__ import annotations

import torch
from torch import Tensor

from vtp_core.errors import DataError
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.vq.tokens import spread


@torch.no_grad()
def read_vectors(
    model: Tokenizer, data: EvaluationSet, *, layer: int | None, tokens: int, rows: int = 32
) -> Tensor:
    """Patch tokens of a set's images.

    Args:
        model: The tokenizer.
        data: The images.
        layer: Block to tap; None: the encoder's output.
        tokens: Patches of each image, evenly spread.
        rows: Images at a time.

    Returns:
        (images, patches, D) on the CPU.

    Raises:
        DataError: A feature is not finite, or there is no image.
    """
    assert model.config is not None
    layers = () if layer is None else (layer,)
    model.encoder.check_layers(layers, "--layer")
    found = []
    for batch in data.batches(model.config.image_size, rows):
        features = model.features(batch.to(model.device).image, layers)["global"]
        patches = features.patches if layer is None else features.layers[layer]
        found.append(spread(patches.flatten(1, 2), tokens).float().cpu())
    if not found:
        raise DataError(f"{data.name}: no image to read features from")
    vectors = torch.cat(found)
    if not vectors.isfinite().all():
        raise DataError("the encoder's features are not finite; no codebook can be built on them")
    return vectors
