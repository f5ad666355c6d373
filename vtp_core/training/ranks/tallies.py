"""Reduction of tallies over calls, chunks and ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from vtp_core.features import Tally
from vtp_core.training.ranks.world import World

SAMPLE_ROWS = 64
"""Global rows of a step of which `Tally.rows` keeps a sample, at any world size."""


def reduce_tallies(tallies: Mapping[str, Sequence[Tally]], world: World) -> dict[str, Tally]:
    """Owner -> one tally, the same on every rank.

    Sums are added. Rows are joined and the first `SAMPLE_ROWS` of the step kept, in global order.
    """
    return {name: reduce_tally(parts, world) for name, parts in tallies.items() if parts}


def reduce_tally(parts: Sequence[Tally], world: World) -> Tally:
    """One owner's tallies as one; every rank holds the same names."""
    sums = {
        name: world.sum(torch.stack([part.sums[name].detach() for part in parts]).sum(0))
        for name in parts[0].sums
    }
    local = max(SAMPLE_ROWS // world.size, 1)
    rows = {
        name: world.gather(torch.cat([part.rows[name].detach() for part in parts])[:local])
        for name in parts[0].rows
    }
    return Tally(sums=sums, rows=rows)
