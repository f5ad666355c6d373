"""All latents of a tokenizer in memory, and what it must have for its samples to be measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vtp_core.errors import DataError, NumericError, UsageError
from vtp_core.evaluation.evaluator import Observation
from vtp_core.evaluation.progress import Show, silent
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.tokenizer import Tokenizer
from vtp_core.tokenizer.checks import broken_weights
from vtp_plugins.probe_gen.config import LEAST_IMAGES


@dataclass(frozen=True, kw_only=True)
class Latents:
    """Latents of images, then those of their mirror images.

    Attributes:
        maps: (2 N, d, h, w) float32, on the tokenizer's device.
        labels: (2 N,) int64, on the same device, or None.
        classes: Number of classes; 0 without labels.
    """

    maps: Tensor
    labels: Tensor | None
    classes: int


def check_tokenizer(tokenizer: Tokenizer, name: str) -> None:
    """Refuses a tokenizer whose samples could not be seen, or whose weights are not finite.

    Raises:
        UsageError: It has no decoder or no config.
        NumericError: A weight is not finite.
    """
    if tokenizer.decoder is None:
        raise UsageError(f"{name}: this tokenizer has no decoder, so generated latents have no images")
    if tokenizer.config is None:
        raise UsageError(f"{name}: a tokenizer without a config has no image size; build it with config=")
    if ruined := broken_weights(tokenizer):
        raise NumericError(f"{name}: its weight {ruined[0]} is not finite; train or export it again")


def encode_all(tokenizer: Tokenizer, data: EvaluationSet, rows: int = 64, show: Show = silent) -> Latents:
    """Encodes the images of a set and their mirror images.

    Args:
        tokenizer: In eval mode; of a variational one the mode is taken, of a discrete one the quantised
            vectors.
        data: The images; their labels condition the generator if there are several classes.
        rows: Images at a time.
        show: Shows the progress.

    Raises:
        DataError: Too few images.
        NumericError: A latent is not finite.
    """
    assert tokenizer.config is not None
    classes = len(data.source.classes) if "label" in data.source.fields else 0
    fields = frozenset({"image", "label"} if classes > 1 else {"image"})
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    labels: list[Tensor] = []
    with torch.no_grad(), show(f"latents of {data.name}", len(data.indices())) as advance:
        for batch in data.batches(tokenizer.config.image_size, rows, fields=fields):
            batch = batch.to(tokenizer.device)
            flipped = {name: crop.flip(-1) for name, crop in batch.crops.items()}
            for latents, crops in zip(found, (batch.crops, flipped), strict=True):
                seen = Observation(tokenizer, replace(batch, crops=crops), "train")
                latents.append(seen.encoded.latent.float())
            if batch.label is not None:
                labels.append(batch.label)
            advance(len(batch))
    count = sum(map(len, found[0]))
    if count < LEAST_IMAGES:
        raise DataError(
            f"{data.name}: {count} images are too few to train on; probe-gen needs {LEAST_IMAGES}"
        )
    known = classes > 1 and sum(map(len, labels)) == count
    return Latents(
        maps=torch.cat((*found[0], *found[1])),
        labels=torch.cat((*labels, *labels)) if known else None,
        classes=classes if known else 0,
    )
