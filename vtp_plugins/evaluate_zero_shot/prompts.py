"""Prompts and class names by name, as open_clip ships them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vtp_plugins.evaluate_zero_shot.config import ZeroShotConfig

_WORDNET_ID = re.compile(r"n\d{8}")


def templates_of(given: str | Sequence[str]) -> tuple[str, ...]:
    """The prompts with ``{class}`` in them; ``"openai"`` names the 80 of CLIP's evaluation on ImageNet."""
    if not isinstance(given, str):
        return tuple(given)
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{class}") for template in OPENAI_IMAGENET_TEMPLATES)


def classes_of(config: ZeroShotConfig, source: Sequence[str]) -> tuple[str, ...]:
    """The class names by label.

    Args:
        config: The evaluator's table.
        source: Class names of the held-out source.
    """
    if not isinstance(config.classes, str):
        return tuple(config.classes)
    if config.classes == "source" and not (config.templates == "openai" and all_ids(source)):
        return tuple(source)
    from open_clip import IMAGENET_CLASSNAMES

    if config.classes == "imagenet":
        return tuple(IMAGENET_CLASSNAMES)
    names = dict(zip(_imagenet_ids(), IMAGENET_CLASSNAMES, strict=True))
    return tuple(names.get(name, name) for name in source)


def problem(config: ZeroShotConfig, source: Sequence[str], name: str) -> str | None:
    """Why these classes can't be asked for by name; None if they can.

    Args:
        config: The evaluator's table.
        source: Class names of the held-out source.
        name: Name of the held-out set.
    """
    if len(classes_of(config, source)) < 2:
        return "the held-out source has no class names (`classes` can give them)"
    if config.classes == "source" and all_ids(source):
        if config.templates != "openai":
            return (
                f"the classes of {name} are WordNet ids, which no text encoder knows; set `classes` to their "
                'names, or `templates = "openai"`, which takes open_clip\'s names of ImageNet'
            )
        if unknown := sorted(set(source) - set(_imagenet_ids())):
            return f"{unknown[0]} of {name} is none of ImageNet's 1,000 classes; set `classes` to names"
    if config.classes == "imagenet" and source:
        if len(source) != 1000:
            return f'{name} has {len(source)} classes, not the 1,000 of `classes = "imagenet"`; use "source"'
        if all_ids(source) and list(source) != _imagenet_ids():
            return f"the WordNet ids of {name} are not ImageNet's in ascending order"
    return None


def all_ids(names: Sequence[str]) -> bool:
    """Whether these are WordNet ids such as n01440764, as ImageNet's folders are named."""
    return bool(names) and all(_WORDNET_ID.fullmatch(name) for name in names)


def _imagenet_ids() -> list[str]:
    from timm.data.imagenet_info import ImageNetInfo

    return list(ImageNetInfo("imagenet-1k").label_names())
