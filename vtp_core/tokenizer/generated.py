"""The call of a generator: its arguments checked, its settings changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vtp_core.bottleneck import Bottleneck
from vtp_core.errors import UsageError
from vtp_core.generator import Generator
from vtp_core.tokenizer.checks import checked_classes, checked_codes


def generated(
    head: Any,
    indices: Tensor,
    seed: int,
    shape: tuple[int, int, int],
    classes: Tensor | None,
    settings: Mapping[str, Any] | None,
    bottleneck: Bottleneck,
) -> Tensor:
    """Latents of an exported generator, of which `bottleneck` decodes codes.

    Other arguments are as of `Tokenizer.generate`, `indices` checked.

    Raises:
        UsageError: A class or a setting that the generator does not have.
    """
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
