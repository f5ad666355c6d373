"""What fits: memory and work of a step with other row chunks (``run.microbatch_rows``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vtp_plugins.plan.memory import GIB


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A step with one size of its row chunks.

    Attributes:
        microbatch_rows: Rows a chunk; None: all rows at once.
        memory: Bytes per rank, estimated.
        flops: Of a step over all ranks.
    """

    microbatch_rows: int | None
    memory: int
    flops: int


def chunk_sizes(rows: int) -> list[int | None]:
    """Chunk sizes to measure for `rows` rows of a rank: all at once, then powers of two, largest first."""
    return [None, *(2**power for power in reversed(range((rows - 1).bit_length())))]


def measure_fits(sizes: Sequence[int | None], measure: Callable[[int | None], tuple[int, int]]) -> list[Fit]:
    """A `Fit` for each size.

    Args:
        sizes: Rows a chunk, largest first.
        measure: Rows a chunk -> bytes per rank and FLOPs.
    """
    found = []
    for rows in sizes:
        memory, flops = measure(rows)
        found.append(Fit(microbatch_rows=rows, memory=memory, flops=flops))
    return found


def say_what_fits(fits: Sequence[Fit], gib: float) -> str:
    """One line: the largest chunks that fit into so many GiB a rank, or that none does."""
    for fit in fits:
        if fit.memory <= gib * GIB:
            if fit.microbatch_rows is None:
                return f"all rows at once fit {gib:g} GiB"
            return f"run.microbatch_rows = {fit.microbatch_rows} is the largest that fits {gib:g} GiB"
    least = min(fit.memory for fit in fits) / GIB
    return (
        f"no chunk size fits {gib:g} GiB, the least is {least:.3g} GiB; try parallel.shard over more ranks "
        'or parallel.activation_checkpoint = "block"'
    )
