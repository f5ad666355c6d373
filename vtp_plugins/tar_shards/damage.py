"""Why a shard can't be read whole, and how much is lost with it. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from vtp_core.data.completeness import Lost
from vtp_plugins.tar_shards.compression import COMMANDS, MAGIC


def why_unreadable(shard: Path, error: Exception) -> str:
    """What is wrong with a shard that could not be indexed."""
    try:
        with shard.open("rb") as file:
            start = file.read(8)
    except OSError:
        start = b""
    for magic, suffix in MAGIC.items():
        if start.startswith(magic):
            return f"compressed, and samples are read by position: decompress it ({COMMANDS[suffix]})"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class Losses:
    """Counts the samples of whole and of damaged shards."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._found_in_damaged: list[int] = []
        self._whole = self._samples = 0

    def whole(self, samples: int) -> None:
        """Adds a shard that was read whole."""
        self._whole, self._samples = self._whole + 1, self._samples + samples

    def damaged(self, shard: Path, why: str, samples: int = 0) -> None:
        """Adds a shard of which only so many samples could be read."""
        self._parts.append(f"{shard}: {why}")
        self._found_in_damaged.append(samples)

    def total(self, missing: tuple[str, ...]) -> Lost:
        """What is lost: what the damaged shards lack of the mean of the whole ones, at least a sample each.

        Args:
            missing: Shards that may be missing.
        """
        mean = self._samples / self._whole if self._whole else 0.0
        lost = sum(max(1, round(mean - found)) for found in self._found_in_damaged)
        present = self._samples + sum(self._found_in_damaged)
        return Lost(parts=tuple(self._parts), fraction=lost / max(lost + present, 1), allowed=missing)
