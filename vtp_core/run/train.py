"""Trains a checked recipe to a finished run folder."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from vtp_core.data.completeness import check_training, summary
from vtp_core.data.opening import Sources
from vtp_core.errors import DistributedError
from vtp_core.evaluation.runner import Results
from vtp_core.plugins import Plugins
from vtp_core.recipe import dump_toml
from vtp_core.recipe.tables.recipe import Recipe
from vtp_core.run.callback import Callback, Callbacks
from vtp_core.run.environment import describe_environment
from vtp_core.run.finish import check_evaluation, finish
from vtp_core.run.loop import Loop
from vtp_core.run.processes.lock import locked
from vtp_core.run.processes.signals import Interrupted, StopSignals
from vtp_core.run.processes.watch import Watch
from vtp_core.run.records import RunFolder
from vtp_core.run.setup.opening import Run, open_run
from vtp_core.training.ranks.parallel import join_world
from vtp_core.training.ranks.rank_objects import on_first_rank

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Done:
    """A finished run.

    Attributes:
        folder: The run folder.
        results: Metric -> entry of ``eval.json``.
    """

    folder: Path
    results: Results


def train(
    recipe: Recipe,
    plugins: Plugins,
    *,
    resume: bool = False,
    allow_change: bool = False,
    sources: Sources | None = None,
) -> Done | None:
    """Trains a recipe: checks everything, runs the steps, writes artefact, evaluation and report.

    The process group stays up for a next stage; `vtp_core.training.ranks.parallel.leave_world` ends it.

    Args:
        recipe: The checked recipe.
        plugins: Where its components come from.
        resume: Continue from the newest checkpoint.
        allow_change: Resume although model or data keys of the recipe changed.
        sources: The recipe's sources, if they are open; None: opened here.

    Returns:
        The finished run on rank 0, None on the others.

    Raises:
        VtpError: Its subclasses say what went wrong and carry the exit code.
    """
    sources = sources or Sources(plugins, recipe.data.decode)
    with StopSignals() as stop:
        watch = Watch(stop, recipe.run.stall_seconds)
        try:
            with watch:
                done = _train(recipe, plugins, sources, stop, watch, resume=resume, allow_change=allow_change)
                stop.waits = True  # the run is done: a signal changes nothing
                return done
        except Interrupted:
            raise stop.error(watch.doing) from None


def _train(
    recipe: Recipe,
    plugins: Plugins,
    sources: Sources,
    stop: StopSignals,
    watch: Watch,
    *,
    resume: bool,
    allow_change: bool,
) -> Done | None:
    watch.now("joining the other ranks")
    world = join_world(recipe.run.device)
    watch.now("opening data and networks", long=True)
    folder = RunFolder.of(recipe)
    try:
        with ExitStack() as stack:
            if not resume:
                folder.require_new()
            on_first_rank(lambda: stack.enter_context(locked(folder)))
            check_evaluation(recipe, plugins, sources, world, read=not resume)
            for line in check_training(sources.named(recipe.data), recipe.data.max_bad_fraction):
                if world.rank == 0:
                    _log.warning(line)
            run = open_run(recipe, plugins, world, sources, resume=resume, allow_change=allow_change)
            stop.resumed = run.guard.last_checkpoint
            if world.rank == 0:
                _write_records(run)
            if run.start == recipe.run.steps:
                _log.info("all %d steps are made; measuring again", run.start)
            else:
                Loop(run, _callbacks(recipe, plugins, first=world.rank == 0), stop, watch)()
            watch.now("making tokenizer, evaluation and report", long=True)
            results = finish(run)
    except RuntimeError as error:
        if world.size == 1 or not _lost_connection(error):
            raise
        raise DistributedError(
            f"rank {world.rank} lost the others ({str(error).splitlines()[0]}); "
            "see the error of the rank that stopped first, and continue with --resume"
        ) from error
    return Done(folder=folder.path, results=results) if world.rank == 0 else None


def _write_records(run: Run) -> None:
    """Writes ``resolved.toml`` and ``environment.json``; rank 0 calls it."""
    run.folder.write_recipe(dump_toml(run.recipe))
    environment = describe_environment(
        run.plugins,
        device=run.world.device,
        world_size=run.world.size,
        kernels={"attention": run.recipe.kernels.attention, "nearest_code": run.recipe.kernels.nearest_code},
    )
    if incomplete := {name: summary(found) for name, found in run.lost().items() if found}:
        environment["incomplete_data"] = incomplete
    run.folder.write_environment(environment)


def _lost_connection(error: RuntimeError) -> bool:
    """Whether a collective failed because another rank died or timed out; gloo has no class for it."""
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL"))


def _callbacks(recipe: Recipe, plugins: Plugins, *, first: bool) -> Callbacks:
    if not first:
        return Callbacks({})
    built: dict[str, Callback] = {
        name: plugins.find("callback", table.use).load_target()(table)
        for name, table in recipe.callbacks.items()
    }
    return Callbacks(built)
