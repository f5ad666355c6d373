"""Batches of drawn pictures for what an objective declares."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy
import torch
from torch import Tensor

from vtp_core.batch import Batch, Masks
from vtp_core.parameters import Dims
from vtp_core.pixels import normalize
from vtp_core.testing.networks import TINY_DIMS
from vtp_core.testing.shapes import draw
from vtp_core.training.forward.seeds import generator
from vtp_core.training.ranks.world import World
from vtp_core.view import ViewNeed

CROP_COUNTS: Mapping[str, int] = {"global": 2, "local": 3}
"""Default crops per row by crop set; one for other names."""


def drawn_batch(
    need: ViewNeed,
    *,
    rows: int = 8,
    size: int = 32,
    counts: Mapping[str, int] = CROP_COUNTS,
    dims: Dims = TINY_DIMS,
    world: World | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    index: int = 0,
    unmasked: Collection[int] = (),
) -> Batch:
    """One rank's rows of a view, with no more than what `need` asks: pixels normalised, as after `Batch.to`.

    A little noise breaks ties between pixels, where a max-pooling has no gradient.

    Args:
        need: What is asked; its `rows` goes before `rows`.
        rows: Global rows of the step, a multiple of the ranks.
        size: Side in pixels; "local" crops have half of it.
        counts: Crop set -> crops per row.
        dims: Patch side, for the masks.
        world: This rank; one of one by default.
        dtype: Of pixels, weights and latents.
        seed: Another seed gives other pictures.
        index: Step index: another step gives other rows.
        unmasked: Global rows without masked patches.
    """
    world = World() if world is None else world
    rows = need.rows or rows
    if rows % world.size:
        raise ValueError(f"{rows} rows can't be dealt to {world.size} ranks")
    pictures = [index * rows + row for row in range(world.rank, rows, world.size)]

    def pixels(name: str) -> Tensor:
        side = size // 2 if name == "local" else size
        rows_of_crops = [
            numpy.stack(
                [draw(i, size=side, seed=seed, crop=crop).image for crop in range(counts.get(name, 1))]
            )
            for i in pictures
        ]
        unit = torch.from_numpy(numpy.stack(rows_of_crops)).movedim(-1, 2).to(dtype) / 255
        grain = [torch.randn(unit.shape[1:], generator=generator("grain", seed, name, i)) for i in pictures]
        return normalize(unit + 0.01 * torch.stack(grain).to(dtype))

    captions = [draw(i, size=8, seed=seed) for i in pictures]
    grid = size // dims.patch
    latents = torch.randn(rows, max(dims.channels, 1), grid, grid, generator=generator("latent", seed, index))
    masks = _masks(rows, counts.get("global", 1), grid**2, generator("masks", seed, index), dtype, unmasked)
    mine_only = slice(world.rank, None, world.size)
    return Batch(
        crops={name: pixels(name) for name in need.crops},
        keys=tuple(f"shape-{i}" for i in pictures),
        text=tuple(drawing.caption for drawing in captions) if need.text else None,
        label=torch.tensor([drawing.label for drawing in captions]) if need.label else None,
        masks=Masks(mask=masks.mask[mine_only], weight=masks.weight[mine_only]) if need.masked else None,
        latent=latents[mine_only].to(dtype) if need.latent else None,
        rows=rows,
    )


def _masks(
    rows: int,
    crops: int,
    patches: int,
    rng: torch.Generator,
    dtype: torch.dtype,
    unmasked: Collection[int],
) -> Masks:
    """Two crops in three have between one and half of their patches masked: no two ranks alike."""
    order = torch.rand(rows, crops, patches, generator=rng).argsort(-1).argsort(-1)
    counts = 1 + torch.arange(rows * crops).view(rows, crops) % max(patches // 2, 1)
    counts = torch.where((torch.arange(rows)[:, None] + torch.arange(crops)) % 3 != 0, counts, 0)
    counts[torch.tensor([row for row in unmasked if row < rows], dtype=torch.int64)] = 0
    mask = order < counts[..., None]
    return Masks(mask=mask, weight=mask.to(dtype) / counts[..., None].clamp_min(1).to(dtype))
