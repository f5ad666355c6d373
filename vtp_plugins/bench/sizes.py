"""Numbers in the shapes of cases. Imports no torch."""

from __future__ import annotations

MOST = 2**31 - 1
"""Far beyond any memory; beyond it libraries count wrongly."""


def sizes(text: str, count: int) -> tuple[int, ...]:
    """The numbers of a shape such as ``4096x8192x32``.

    Args:
        text: Numbers between ``x``.
        count: How many there have to be.

    Raises:
        ValueError: There are more or fewer, or one is not from 1 to `MOST`.
    """
    parts = text.split("x")
    if len(parts) != count:
        raise ValueError(f"{text!r} has {len(parts)} numbers, not {count}")
    for part in parts:
        if not (part.isascii() and part.isdigit() and 1 <= int(part[:20]) <= MOST):
            raise ValueError(f"{part!r} is no number from 1 to {MOST}")
    return tuple(int(part) for part in parts)
