"""What is checked and logged once a run is open, before its first step."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from vtp_core.data.source import Source
from vtp_core.encoder import Encoder
from vtp_core.errors import DataError
from vtp_core.recipe.tables.recipe import Recipe
from vtp_core.training.networks import PARTS, Networks

_log = logging.getLogger(__name__)


def log_notices(networks: Networks) -> None:
    """Logs what encoders say of their weights, and what objectives warn of."""
    for network in (networks.encoder, *networks.frozen.values()):
        for line in network.notices() if isinstance(network, Encoder) else ():
            _log.info(line)
    for name, objective in networks.objectives.items():
        for line in objective.warnings():
            _log.warning("objective %s: %s", name, line)


def check_classes(named: Mapping[str, Source], recipe: Recipe, networks: Networks) -> None:
    """Compares the classes that objectives are built for with those that their sources name.

    Args:
        named: Source name -> source.
        recipe: The recipe.
        networks: The modules of the run.

    Raises:
        DataError: A source names more classes than an objective has.
    """
    for name, objective in networks.objectives.items():
        for view, need in objective.views().items():
            source = recipe.views[view].source
            count = len(named[source].classes)
            if need.classes is None or count in (0, need.classes):
                continue
            if count > need.classes:
                raise DataError(
                    f"objectives.{name} has {need.classes} classes, but source {source} (views.{view}) names "
                    f"{count}; set objectives.{name}.classes = {count}"
                )
            _log.warning(
                "objective %s: %d classes, but source %s names %d; the others are never trained",
                name,
                need.classes,
                source,
                count,
            )


def warn_of_untrained(networks: Networks, recipe: Recipe, loaded: Collection[str]) -> None:
    """Warns of frozen owners whose weights come from nowhere: they stay random for the whole run.

    Args:
        networks: The modules of the run.
        recipe: The recipe.
        loaded: Owners that `init_from` loaded whole.
    """
    untrained = []
    for owner in recipe.freeze:
        table = getattr(recipe, owner) if owner in PARTS else recipe.objectives[owner]
        pretrained = table.untrained() != table or "weights" in type(table).model_fields
        if owner not in loaded and networks.parameters_of(owner) and not pretrained:
            untrained.append(owner)
    if untrained:
        why = "there is no init_from" if recipe.init_from is None else "init_from does not load all of it"
        _log.warning("frozen with random weights, as %s: %s", why, ", ".join(untrained))
