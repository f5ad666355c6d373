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

TAKES_NONE = "generate: the generator of this tokenizer takes neither classes nor settings"


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
    shape = _shape(tokenizer)
    indices = checked_samples("generate", indices, seed, tokenizer.device)
    if classes is None and settings is None:
        made: Tensor = head.generate(indices, seed, shape)
    elif not isinstance(head, Generator):
        raise UsageError(TAKES_NONE)
    else:
        if classes is not None:
            classes = checked_classes("generate", classes, indices, head.classes)
        table = None if settings is None else head.with_settings(settings)
        made = head.generate(indices, seed, shape, classes=classes, settings=table)
    if made.is_floating_point():
        return made
    bottleneck = tokenizer.bottleneck
    codes = checked_codes("generate", made, bottleneck.codebook_sizes, bottleneck)
    return bottleneck.decode_codes(codes)


def sampling_of(tokenizer: Tokenizer, changes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings that act on samples of a tokenizer's generator, by key; None: it states none.

    Args:
        tokenizer: Its weights may be on the meta device.
        changes: Changes of the generator's settings.

    Raises:
        UsageError: There is no generator, or it has no such setting or can't make samples with it.
    """
    if "generate" not in tokenizer.exports:
        raise UsageError("generate: this tokenizer has no generator; train one on its latents")
    head = tokenizer.exports["generate"]
    if not isinstance(head, Generator):
        if changes:
            raise UsageError(TAKES_NONE)
        return None
    return dict(head.describe(_shape(tokenizer), head.with_settings(changes) if changes else None))


def changed_settings(
    tokenizer: Tokenizer, given: Mapping[str, Any], changes: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings of a generator with changes, and without those that only these changes leave without effect.

    Args:
        tokenizer: Its weights may be on the meta device.
        given: The settings before the changes.
        changes: By key.

    Returns:
        The settings, and key -> why of those that were dropped.

    Raises:
        UsageError: As `sampling_of`.
    """
    settings, dropped = {**given, **changes}, {}
    head = tokenizer.exports["generate"] if "generate" in tokenizer.exports else None
    if isinstance(head, Generator) and (idle := head.without_effect(settings)):
        before = head.without_effect(given)
        dropped = {key: why for key, why in idle.items() if key not in changes and key not in before}
    settings = {key: value for key, value in settings.items() if key not in dropped}
    sampling_of(tokenizer, settings)
    return settings, dropped


def _shape(tokenizer: Tokenizer) -> tuple[int, int, int]:
    if tokenizer.config is None:
        raise UsageError("generate: a tokenizer without a config has no image size; build it with config=")
    return (tokenizer.bottleneck.channels, *tokenizer.encoder.grid(*sides(tokenizer.config.image_size)))
