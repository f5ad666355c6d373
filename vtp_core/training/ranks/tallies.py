"""Reduction of tallies over calls, chunks and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vtp_core.features import Tally
from vtp_core.math.moments import Moments, merge
from vtp_core.training.ranks.world import World

SAMPLE_ROWS = 64
"""Global rows of which `Tally.rows` keeps a sample, unless the bottleneck asks for another number."""


def reduce_tallies(
    tallies: Mapping[str, Sequence[Tally]], world: World, sample_rows: Mapping[str, int] | None = None
) -> dict[str, Tally]:
    """Owner -> one tally, the same on every rank.

    Sums are added and moments merged. Rows are joined and the first of them kept, in global order.

    Args:
        tallies: Owner -> this rank's tallies.
        world: The ranks.
        sample_rows: Owner -> global rows to keep; default: `SAMPLE_ROWS`.
    """
    kept = sample_rows or {}
    return {
        name: reduce_tally(parts, world, kept.get(name, SAMPLE_ROWS))
        for name, parts in tallies.items()
        if parts
    }


def reduce_tally(parts: Sequence[Tally], world: World, sample_rows: int = SAMPLE_ROWS) -> Tally:
    """One owner's tallies as one; every rank holds the same names and equally many rows of each."""
    local = join_tallies(parts, -(-sample_rows // world.size))
    return Tally(
        sums={name: world.sum(value) for name, value in local.sums.items()},
        rows={name: world.gather(value)[:sample_rows] for name, value in local.rows.items()},
        moments={name: _over_ranks(value, world) for name, value in local.moments.items()},
    )


def join_tallies(parts: Sequence[Tally], rows: int) -> Tally:
    """Tallies of one rank as one, with the first `rows` of their rows."""
    first = parts[0]
    return Tally(
        sums={name: torch.stack([part.sums[name].detach() for part in parts]).sum(0) for name in first.sums},
        rows={name: _first([part.rows[name] for part in parts], rows) for name in first.rows},
        moments={name: merge([part.moments[name] for part in parts]) for name in first.moments},
    )


def _first(parts: Sequence[Tensor], rows: int) -> Tensor:
    """The first rows of all parts; a copy, so that the parts can be freed."""
    return torch.cat([part.detach() for part in parts])[:rows].clone()


def _over_ranks(local: Moments, world: World) -> Moments:
    count = world.sum(local.count)
    mean = world.sum(local.count * local.mean) / count.clamp(min=1)
    return Moments(count=count, mean=mean, scatter=world.sum(local.about(mean)))
