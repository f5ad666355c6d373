"""Classes that a user asks for, by name or number. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from vtp_core.errors import UsageError
from vtp_core.recipe.problems import did_you_mean

ALL = "all"


def read_classes(text: str, names: Sequence[str], known: int) -> list[int]:
    """The classes that a list names.

    Args:
        text: Names or numbers with commas between, or `all`.
        names: Names of the classes by number; empty if they are unknown.
        known: Number of classes of the generator.

    Raises:
        UsageError: There is no such class, or the generator has none.
    """
    if not known:
        raise UsageError("--classes: this generator was trained without classes; leave it out")
    if text.strip() == ALL:
        return list(range(known))
    lower: dict[str, list[int]] = {}
    for number, name in enumerate(names[:known]):
        lower.setdefault(name.lower(), []).append(number)
    return [_class(word.strip(), lower, known) for word in text.split(",")]


def _class(word: str, lower: dict[str, list[int]], known: int) -> int:
    numbers = set(lower.get(word.lower(), ()))
    if word.isdecimal() and len(word) < 10 and int(word) < known:
        numbers.add(int(word))
    if len(numbers) == 1:
        return numbers.pop()
    if numbers:
        listed = " and ".join(map(str, sorted(numbers)))
        raise UsageError(f"--classes: {word!r} may be one of classes {listed}; give their numbers")
    advice = did_you_mean(word, lower) if lower else "the names are unknown, give numbers"
    raise UsageError(f"--classes: no class {word!r} of 0 to {known - 1}; {advice}")


def titles(classes: Sequence[int], names: Sequence[str]) -> list[str]:
    """Names of classes, or their numbers where these are unknown."""
    return [names[number] if number < len(names) else str(number) for number in classes]
