"""The call of a generator: its arguments checked, its settings changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vtp_core.errors import UsageError
from vtp_core.generator import Generator
from vtp_core.tokenizer.checks import checked_classes, checked_codes, checked_samples
from vtp_core.view import sides

if TYPE_CHECKING:
    from vtp_core.tokenizer.model import Tokenizer


def generated(
    tokenizer: Tokenizer,
    head: Any,
    indices: Tensor,
    seed: int,
    classes: Tensor | None,
    settings: Mapping[str, Any] | None,
) -> Tensor:
    """Latents of a tokenizer's exported generator; other arguments are as of `Tokenizer.generate`.

    Raises:
        UsageError: The tokenizer has no config, or the generator no such class or setting.
    """
    if tokenizer.config is None:
        raise UsageError("generate: a tokenizer without a config has no image size; build it with config=")
    indices = checked_samples("generate", indices, seed, tokenizer.device)
    bottleneck, grid = tokenizer.bottleneck, tokenizer.encoder.grid(*sides(tokenizer.config.image_size))
    shape = (bottleneck.channels, *grid)
    if classes is None and settings is None:
        made: Tensor = head.generate(indices, seed, shape)
    elif not isinstance(head, Generator):
        raise UsageError("generate: the generator of this tokenizer takes neither classes nor settings")
    else:
        if classes is not None:
            classes = checked_classes("generate", classes, indices, head.classes)
        table = None if settings is None else head.with_settings(settings)
        made = head.generate(indices, seed, shape, classes=classes, settings=table)
    if made.is_floating_point():
        return made
    codes = checked_codes("generate", made, bottleneck.codebook_sizes, bottleneck)
    return bottleneck.decode_codes(codes)
