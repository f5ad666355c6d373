"""The call of a generator: its arguments checked, its settings changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vtp_core.errors import UsageError
from vtp_core.generator import Generator
from vtp_core.tokenizer.checks import checked_classes


def generated(
    head: Any,
    indices: Tensor,
    seed: int,
    shape: tuple[int, int, int],
    classes: Tensor | None,
    settings: Mapping[str, Any] | None,
) -> Tensor:
    """Latents of an exported generator; arguments as of `Tokenizer.generate`, `indices` checked.

    Raises:
        UsageError: A class or a setting that the generator does not have.
    """
    if classes is None and settings is None:
        latent: Tensor = head.generate(indices, seed, shape)
        return latent
    if not isinstance(head, Generator):
        raise UsageError("generate: the generator of this tokenizer takes neither classes nor settings")
    if classes is not None:
        classes = checked_classes("generate", classes, indices, head.classes)
    table = None if settings is None else head.with_settings(settings)
    return head.generate(indices, seed, shape, classes=classes, settings=table)
