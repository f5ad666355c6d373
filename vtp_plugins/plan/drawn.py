"""Random batches for a plan: pixels, captions, and masks of exactly the mean size."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from vtp_core.batch import Batch, Masks
from vtp_core.config import SourceConfig
from vtp_core.parameters import Dims
from vtp_core.recipe.tables.recipe import Recipe
from vtp_core.recipe.tables.views import MaskConfig
from vtp_core.testing.shapes import draw
from vtp_core.training.forward.seeds import generator
from vtp_core.view import ViewNeed, sides


def drawn_batches(recipe: Recipe, needs: Mapping[str, ViewNeed], dims: Dims, rows: int) -> dict[str, Batch]:
    """`rows` rows of every view, with what is asked of it, as the loader returns them.

    Args:
        recipe: Its views and sources.
        needs: View -> union of what objectives ask.
        dims: Patch side, and channels of cached latents.
        rows: Rows of each view, on the one rank that there is.
    """
    return {view: _batch(recipe, view, need, dims, rows) for view, need in needs.items()}


def reads_latents(recipe: Recipe, view: str, need: ViewNeed) -> bool:
    """Whether the view's source is known to hold cached latents and they will do."""
    name = recipe.views[view].source
    source = recipe.data.source if name == "default" else recipe.data.sources[name]
    return need.latent and isinstance(source, SourceConfig) and source.offers_latents()


def _batch(recipe: Recipe, name: str, need: ViewNeed, dims: Dims, rows: int) -> Batch:
    view, rng = recipe.views[name], generator("plan", name)
    latents = reads_latents(recipe, name, need)
    crops = {
        crop: torch.randint(
            0,
            256,
            (rows, view.crops[crop].count, 3, *sides(view.crop_size(crop))),
            dtype=torch.uint8,
            generator=rng,
        )
        for crop in (() if latents else need.crops)
    }
    height, width = view.grid(dims.patch)
    return Batch(
        crops=crops,
        keys=tuple(f"drawn-{row}" for row in range(rows)),
        text=tuple(draw(row, size=8).caption for row in range(rows)) if need.text else None,
        label=torch.zeros(rows, dtype=torch.int64) if need.label else None,
        masks=_masks(view.masks, rows, view.crops["global"].count, height * width) if need.masked else None,
        latent=torch.randn(rows, dims.channels, height, width, generator=rng) if latents else None,
        rows=rows,
    )


def _masks(config: MaskConfig | None, rows: int, crops: int, patches: int) -> Masks | None:
    """The same number of masked patches in every crop, so that costs are linear in the rows."""
    if config is None:
        return None
    count = max(1, round(config.probability * sum(config.ratio) / 2 * patches))
    mask = torch.zeros(rows, crops, patches, dtype=torch.bool)
    mask[..., torch.linspace(0, patches - 1, count).long()] = True
    return Masks(mask=mask, weight=mask.float() / count)
