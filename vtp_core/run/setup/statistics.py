"""The statistics of a run's latents: of the tokenizer it began with, of cached latents, or measured."""

from __future__ import annotations

from vtp_core.artefact.config import ArtefactConfig, is_artefact, read_config
from vtp_core.artefact.finding import find_tokenizer, run_of_checkpoint
from vtp_core.artefact.fingerprint import networks_fingerprint, same_latents
from vtp_core.artefact.loading import load
from vtp_core.data.opening import Sources
from vtp_core.data.part import unparted
from vtp_core.data.source import LatentSource
from vtp_core.errors import VtpError
from vtp_core.evaluation.latents import measure_latents
from vtp_core.evaluation.opening import open_set
from vtp_core.evaluation.progress import Show, silent
from vtp_core.plugins import Plugins
from vtp_core.recipe.tables.recipe import Recipe
from vtp_core.tokenizer import Tokenizer

STATISTICS = ("latents_mean", "latents_std", "scaling_factor", "latents_stats_protocol")


def with_statistics(
    model: Tokenizer,
    recipe: Recipe,
    sources: Sources,
    plugins: Plugins,
    count: int,
    *,
    show: Show = silent,
) -> ArtefactConfig:
    """The tokenizer's config with the statistics of its latents.

    A run that leaves encoder and bottleneck of ``init_from`` as they are keeps its statistics, so that the
    fingerprint is the same.

    Args:
        model: The run's tokenizer, in eval mode, with a `config`.
        recipe: The run's recipe.
        sources: Its opened sources.
        plugins: Where the tokenizer of ``init_from`` is looked up.
        count: Images to measure on, if they must be measured.
        show: Shows the progress.

    Raises:
        DataError: No sample can be read.
        NumericError: A latent is not finite.
    """
    assert model.config is not None
    if (known := _inherited(model, recipe, plugins)) is not None:
        return model.config.model_copy(update={name: getattr(known, name) for name in STATISTICS})
    source = sources.open(recipe.data.source)
    if "image" not in source.fields and isinstance(cached := unparted(source), LatentSource):
        mean, deviation, how = cached.statistics()
        values = {"latents_mean": tuple(mean), "latents_std": tuple(deviation)}
        return model.config.model_copy(update={**values, "latents_stats_protocol": how})
    data = open_set(recipe.data.source, sources, count, skip_bad=True)
    return measure_latents(model, data, rows=recipe.evaluate.rows, show=show)


def _inherited(model: Tokenizer, recipe: Recipe, plugins: Plugins) -> ArtefactConfig | None:
    """The config of the artefact that the run began with, if it makes the same latents and has statistics."""
    if recipe.init_from is None:
        return None
    path = recipe.init_from if isinstance(recipe.init_from, str) else recipe.init_from.path
    try:
        folder = find_tokenizer(path, plugins)
        if run_of_checkpoint(folder) is not None or not is_artefact(folder):
            return None
        config = read_config(folder)
        assert model.config is not None
        if config.latents_mean is None or config.image_size != model.config.image_size:
            return None
        hashed = config.fingerprint
        if hashed is None:
            older = load(folder, plugins=plugins)
            hashed = networks_fingerprint(older.encoder, older.bottleneck)
    except VtpError:  # the folder is gone or damaged: the run does not need it
        return None
    own = networks_fingerprint(model.encoder, model.bottleneck)
    return config if same_latents(hashed, own) else None
