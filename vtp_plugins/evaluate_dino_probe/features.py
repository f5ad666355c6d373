"""What the heads read of an encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from vtp_core.encoded import require_finite
from vtp_core.evaluation.evaluator import Observation


def last_blocks(seen: Observation, blocks: int) -> Tensor:
    """Class tokens of the last blocks after the final norm, then the mean patch token of the last one.

    Args:
        seen: A batch.
        blocks: Number of blocks n.

    Returns:
        (B, (n + 1) * D) float32; the last (m + 1) * D columns are what m blocks give.

    Raises:
        NumericError: A number is not finite.
    """
    encoder = seen.model.encoder
    wanted = tuple(range(encoder.depth - blocks, encoder.depth))
    image = seen.batch.image.to(seen.model.dtype)
    with seen.precision():
        found = encoder.intermediate(image, wanted, normed=True)
    tokens = [found[block].float() for block in wanted]
    vectors = torch.cat([*(token[:, 0] for token in tokens), tokens[-1][:, 1:].mean(1)], 1)
    require_finite("encoder", {"class tokens of the last blocks are": vectors}, encoder)
    return vectors
