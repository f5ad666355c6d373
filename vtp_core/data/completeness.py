"""Parts of a source that can't be read: named before a run, refused by evaluations. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from vtp_core.data.source import FaultySource, Source
from vtp_core.errors import DataError

_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Lost:
    """Parts of a source whose samples are lost: shards that are cut, folders that can't be opened.

    Attributes:
        parts: Where and why, one line each.
        fraction: Estimated fraction of all samples that are lost in them.
        allowed: Missing parts that the source's own table allows, one line each.
    """

    parts: Sequence[str] = ()
    fraction: float = 0.0
    allowed: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.parts) + len(self.allowed)

    def __str__(self) -> str:
        lines = [*self.parts, *self.allowed]
        more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        return "; ".join(lines[:_SHOWN]) + more


@runtime_checkable
class IncompleteSource(Protocol):
    """A source that may open although parts of it can't be read; its length counts the rest."""

    def lost(self) -> Lost:
        """What can't be read."""


def lost(source: Source) -> Lost:
    """What of a source can't be read; nothing, if it doesn't say."""
    return source.lost() if isinstance(source, IncompleteSource) else Lost()


def require_whole(name: str, source: Source) -> None:
    """Refuses a source to measure on of which parts can't be read.

    Args:
        name: Its name in the message.
        source: The source.

    Raises:
        DataError: Parts of it can't be read; names them.
    """
    if found := lost(source):
        raise DataError(
            f"{name}: {len(found)} of its parts can't be read: {found}. Evaluations use whole sets: repair "
            "them or take them out of the source, or measure the rest with evaluate.allow_incomplete = true "
            "(vtp eval --allow-incomplete)"
        )


def check_training(sources: Mapping[str, Source], max_bad_fraction: float) -> Iterator[str]:
    """Compares what training sources have lost with ``data.max_bad_fraction``.

    Args:
        sources: Name in the recipe -> source.
        max_bad_fraction: The fraction of samples that may be lost.

    Yields:
        One line for each kind of fault of a source, and one for its lost parts.

    Raises:
        DataError: A source has lost more.
    """
    for name, source in sources.items():
        found = lost(source)
        if found.fraction > max_bad_fraction:
            raise DataError(
                f"source {name}: {len(found.parts)} of its parts can't be read, an estimated "
                f"{found.fraction:.2%} of its samples, more than data.max_bad_fraction = "
                f"{max_bad_fraction:g} allows: {found}. Repair them, or take them out of the source"
            )
        if found:
            yield f"source {name}: {summary(found)}"
        elif isinstance(source, FaultySource):
            for what, places in source.problems().items():
                yield f"source {name}: {what}: {len(places)}, the first: {places[0]}"


def summary(found: Lost) -> str:
    """One line about lost parts."""
    return f"{len(found)} parts can't be read, an estimated {found.fraction:.2%} of the samples: {found}"
