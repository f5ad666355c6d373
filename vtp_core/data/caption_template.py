"""Templates of captions, such as ``"a photo of a {class}"``. Imports no torch."""

from __future__ import annotations


def check_template(template: str | None, *names: str) -> None:
    """Refuses a template that can't be filled in.

    Args:
        template: The caption's template; None is no template.
        names: What it may name in braces.

    Raises:
        ValueError: It names something else, or its braces are wrong.
    """
    if template is None:
        return
    try:
        template.format_map(dict.fromkeys(names, ""))
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        known = " and ".join(f"{{{name}}}" for name in names)
        raise ValueError(f"caption: only {known} can be filled in ({error!r})") from error
