"""What a run's artefact says of its generators: the names of their classes."""

from __future__ import annotations

from vtp_core.artefact.config import ArtefactConfig
from vtp_core.data.opening import Sources
from vtp_core.recipe.tables.recipe import Recipe


def with_class_names(config: ArtefactConfig, recipe: Recipe, sources: Sources) -> ArtefactConfig:
    """The config with the class names of the source that the first generator with labels is trained on."""
    for name, head in config.heads.items():
        if "generate" not in head.exports:
            continue
        for view, need in recipe.objectives[name].views().items():
            if need.label:
                source = sources.named(recipe.data)[recipe.views[view].source]
                return config.model_copy(update={"classes": tuple(source.classes)})
    return config
