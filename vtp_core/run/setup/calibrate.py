"""Calibrates bottlenecks (PCA, codebook) and objectives (latent statistics) on data before step 0."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from vtp_core.batch import Batch
from vtp_core.errors import DataError
from vtp_core.features import Features, Tally
from vtp_core.training.forward.forwards import Forwards
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.forward.step import EngineStep
from vtp_core.training.networks import Networks
from vtp_core.training.ranks.tallies import SAMPLE_ROWS, join_tallies, reduce_tally
from vtp_core.training.ranks.world import World
from vtp_core.view import ViewNeed

_log = logging.getLogger(__name__)


Reading = Callable[[Mapping[str, Mapping[str, ViewNeed]], int], Iterable[tuple[int, Mapping[str, Batch]]]]
"""(asker -> view -> what it asks, steps) -> (step, batches) of a training loader."""


def calibrate_fresh(
    networks: Networks,
    world: World,
    options: ForwardOptions,
    reading: Reading,
    view_rows: Mapping[str, int],
    loaded: Container[str],
) -> None:
    """Calibrates what asks for it and was not loaded: first the bottleneck, then objectives.

    Args:
        networks: Not sharded yet.
        world: This rank.
        options: Precision and seed of the forwards.
        reading: Opens a loader.
        view_rows: View -> its global rows a step.
        loaded: Owners whose state was loaded.
    """
    needs = {name: dict(objective.views()) for name, objective in networks.objectives.items()}
    if (rows := networks.bottleneck.calibration_rows) and "bottleneck" not in loaded:
        view = next(iter(next(iter(needs.values()))))
        steps = reading({"bottleneck": {view: ViewNeed()}}, -(-rows // view_rows[view]))
        calibrate(networks, world, options, steps, view, rows)
    for name, objective in networks.objectives.items():
        if (rows := objective.calibration_rows) and name not in loaded:
            view, need = next(iter(needs[name].items()))
            used = min(need.rows or view_rows[view], view_rows[view])
            steps = reading({name: needs[name]}, -(-rows // used))
            calibrate_objective(networks, world, options, steps, name)


@torch.no_grad()
def calibrate(
    networks: Networks,
    world: World,
    options: ForwardOptions,
    steps: Iterable[tuple[int, Mapping[str, Batch]]],
    view: str,
    rows: int,
) -> int:
    """Passes features of training rows to the bottleneck, which sets its state from them; equal on all ranks.

    Tallies are joined batch by batch, so memory does not grow with the rows.

    Args:
        networks: Not sharded yet.
        world: This rank.
        options: Precision of the encoder's forward.
        steps: (step, batches) of a training loader that is long enough.
        view: The view whose rows are used; it needs pixels.
        rows: Minimum number of global rows.

    Returns:
        Global rows that were used; 0 if the bottleneck needs no calibration.

    Raises:
        DataError: The view holds cached latents, or the batches end early.
    """
    encoder, bottleneck = networks.encoder, networks.bottleneck

    def observe(index: int, batches: Mapping[str, Batch]) -> Tally | None:
        batch = batches[view].to(world.device)
        if "global" not in batch.crops:
            raise DataError(
                f"views.{view}: holds cached latents, and the bottleneck must see images to calibrate; start "
                "from a calibrated one with init_from"
            )
        with options.precision(world.device):
            tokens = encoder([batch.crops["global"]], [None], layers=bottleneck.layers)
            return bottleneck.observe(Features(crops={"global": tokens[0]}))

    with _evaluating(encoder):
        tally, seen = _observed(observe, steps, view, rows, bottleneck.sample_rows, world)
    if tally is None:
        return 0
    bottleneck.calibrate(tally)
    _log.info("bottleneck calibrated on %d rows of view %s", seen, view)
    return seen


@torch.no_grad()
def calibrate_objective(
    networks: Networks,
    world: World,
    options: ForwardOptions,
    steps: Iterable[tuple[int, Mapping[str, Batch]]],
    name: str,
) -> int:
    """Shows training rows to an objective, which sets its state from them; equal on all ranks.

    Args:
        networks: Not sharded yet, the bottleneck calibrated.
        world: This rank.
        options: Precision and seed of the forwards.
        steps: (step, batches) of a training loader that is long enough.
        name: The objective's.

    Returns:
        Global rows that were used.

    Raises:
        DataError: The batches end early.
    """
    objective = networks.objectives[name]
    needs = dict(objective.views())

    def observe(index: int, batches: Mapping[str, Batch]) -> Tally:
        moved = {view: batches[view].to(world.device) for view in needs}
        forwards = Forwards(networks, world, moved, needs, options, index)
        try:
            return objective.observe(EngineStep(forwards, name, needs))
        finally:
            forwards.close()

    view, rows = next(iter(needs)), objective.calibration_rows
    with _evaluating(networks.encoder, networks.bottleneck):
        tally, seen = _observed(observe, steps, view, rows, SAMPLE_ROWS, world, used=needs[view].rows)
    assert tally is not None
    objective.calibrate(tally)
    _log.info("objective %s calibrated on %d rows of view %s", name, seen, view)
    return seen


def _observed(
    observe: Callable[[int, Mapping[str, Batch]], Tally | None],
    steps: Iterable[tuple[int, Mapping[str, Batch]]],
    view: str,
    rows: int,
    sample_rows: int,
    world: World,
    *,
    used: int | None = None,
) -> tuple[Tally | None, int]:
    """The reduced tally of at least `rows` global rows, and how many there were; None if nothing is observed.

    `used` is the number of rows of a step that are used, where not all are.
    """
    tally: Tally | None = None
    seen = 0
    for index, batches in steps:
        part = observe(index, batches)
        if part is None:
            return None, 0
        parts = [part] if tally is None else [tally, part]
        tally = join_tallies(parts, -(-sample_rows // world.size))
        seen += batches[view].rows if used is None else min(used, batches[view].rows)
        if seen >= rows:
            break
    if tally is None or seen < rows:
        raise DataError(f"views.{view}: calibration asks {rows} rows and got {seen}")
    return reduce_tally([tally], world, sample_rows), seen


@contextmanager
def _evaluating(*modules: nn.Module) -> Iterator[None]:
    """Modules in evaluation mode."""
    training = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module, was in zip(modules, training, strict=True):
            module.train(was)
