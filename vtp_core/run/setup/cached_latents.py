"""Sources of cached latents in a run: prepared before it, and refused if of another tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from torch import Tensor

from vtp_core.artefact.fingerprint import TokenizerName, networks_fingerprint, require_same
from vtp_core.data.part import unparted
from vtp_core.data.source import LatentSource, PreparedSource, Source
from vtp_core.errors import UsageError
from vtp_core.evaluation.progress import silent
from vtp_core.plugins import Plugins
from vtp_core.recipe.tables.recipe import Recipe
from vtp_core.run.progress import show_pass
from vtp_core.training.networks import Networks
from vtp_core.training.ranks.world import World
from vtp_core.training.saving.state import whole

_log = logging.getLogger(__name__)


def prepare_sources(named: Mapping[str, Source], recipe: Recipe, plugins: Plugins, world: World) -> None:
    """Lets sources do their work before the first step; every rank calls it.

    Raises:
        UsageError: Cached latents for a tokenizer that the recipe trains: they would no longer be its own.
    """
    for name, source in _latent_sources(named):
        if trained := [part for part in ("encoder", "bottleneck") if part not in recipe.freeze]:
            raise UsageError(
                f"source {name} delivers cached latents, but {' and '.join(trained)} are trained and would "
                'leave them behind; set freeze = ["encoder", "bottleneck", "decoder"]'
            )
        if isinstance(source, PreparedSource):
            source.prepare(plugins, world.device, show_pass if world.rank == 0 else silent)


def check_latents(
    named: Mapping[str, Source], recipe: Recipe, networks: Networks, state: Mapping[str, Tensor]
) -> None:
    """Refuses latents of another tokenizer than the run's, once its weights are loaded; every rank calls it.

    Args:
        named: Source name -> prepared source.
        recipe: The recipe.
        networks: The modules of the run.
        state: Its tensors by full name; those that it lacks are the modules' own.

    Raises:
        CheckpointError: Names both tokenizers.
    """
    sources = dict(_latent_sources(named))
    if not sources:
        return
    parts = ("tokenizer.encoder.", "tokenizer.bottleneck.")
    stored = whole({name: value for name, value in state.items() if name.startswith(parts)})
    stored = {name.removeprefix("tokenizer."): value for name, value in stored.items()}
    hashed = networks_fingerprint(networks.encoder, networks.bottleneck, stored)
    own = TokenizerName(name=f"that of recipe {recipe.name}", fingerprint=hashed)
    for name, source in sources.items():
        if (made_by := source.made_by) is None:
            _log.warning("source %s: its files don't say which tokenizer made the latents", name)
        else:
            require_same(f"source {name}", made_by, own)


def _latent_sources(named: Mapping[str, Source]) -> Iterator[tuple[str, LatentSource]]:
    for name, source in named.items():
        if "latent" in source.fields and isinstance(found := unparted(source), LatentSource):
            yield name, found
