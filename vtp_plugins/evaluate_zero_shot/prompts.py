"""Prompts and class names by name, as open_clip ships them."""

from __future__ import annotations

from collections.abc import Sequence


def templates_of(given: str | Sequence[str]) -> tuple[str, ...]:
    """The prompts with ``{class}`` in them; ``"openai"`` names the 80 of CLIP's evaluation on ImageNet."""
    if not isinstance(given, str):
        return tuple(given)
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{class}") for template in OPENAI_IMAGENET_TEMPLATES)


def classes_of(given: str | Sequence[str], source: Sequence[str]) -> tuple[str, ...]:
    """The class names by label: ``"source"`` takes those of the held-out source, ``"imagenet"`` the 1,000."""
    if not isinstance(given, str):
        return tuple(given)
    if given == "source":
        return tuple(source)
    from open_clip import IMAGENET_CLASSNAMES

    return tuple(IMAGENET_CLASSNAMES)
