"""Opens a run: data, networks and optimisers, fresh or from its newest checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from vtp_core.data.completeness import Lost, lost
from vtp_core.data.loading.loader import Loader
from vtp_core.data.opening import Sources
from vtp_core.data.source import Source
from vtp_core.errors import CheckpointError, DistributedError
from vtp_core.plugins import Plugins
from vtp_core.recipe.tables.recipe import Recipe
from vtp_core.run.records import RunFolder
from vtp_core.run.setup import build
from vtp_core.run.setup.cached_latents import check_latents, prepare_sources
from vtp_core.run.setup.calibrate import calibrate_fresh
from vtp_core.run.setup.init_from import init_from
from vtp_core.run.setup.kernels import RunKernels, choose_kernels, keep_kernels
from vtp_core.run.setup.preflight import check_classes, log_notices, warn_of_untrained
from vtp_core.run.setup.recipe_change import check_resume
from vtp_core.training.groups import group_needs
from vtp_core.training.joint import JointStep
from vtp_core.training.networks import Networks
from vtp_core.training.optim.critics import Critics
from vtp_core.training.optim.ema import Ema
from vtp_core.training.optim.guard import Guard
from vtp_core.training.optim.optimizer import MainOptimizer
from vtp_core.training.optim.update import Update
from vtp_core.training.ranks.parallel import build_mesh, move, wrap
from vtp_core.training.ranks.rank_objects import gather_objects, on_first_rank
from vtp_core.training.ranks.world import World
from vtp_core.training.saving.checkpoint import load
from vtp_core.training.saving.folder import Checkpoint, find_latest
from vtp_core.training.saving.manifest import published
from vtp_core.training.saving.state import training_state
from vtp_core.view import ViewNeed

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run that is ready to train.

    Attributes:
        recipe: The checked recipe.
        plugins: Where its components come from.
        world: This rank.
        folder: The run folder.
        sources: Its opened sources.
        loader: First step -> the training loader from there.
        networks: All modules.
        kernels: The implementations of operators that they use.
        ema: EMA copies, or None.
        optimizer: The main optimiser.
        critics: Objective -> its critic's optimiser.
        guard: Refuses losses and gradients that are not finite.
        joint: Runs a step.
        start: First step; above 0 after a resume.
    """

    recipe: Recipe
    plugins: Plugins
    world: World
    folder: RunFolder
    sources: Sources
    loader: Callable[[int], Loader]
    networks: Networks
    kernels: RunKernels
    ema: Ema | None
    optimizer: MainOptimizer
    critics: dict[str, MainOptimizer]
    guard: Guard
    joint: JointStep
    start: int

    def state(self) -> dict[str, torch.Tensor]:
        """The live tensors of a checkpoint, by name."""
        return training_state(self.networks, self.ema, self.optimizer, self.critics)

    def source_lengths(self) -> dict[str, int]:
        """Number of samples of each training source; the order of samples depends on it."""
        return {name: len(source) for name, source in self.sources.named(self.recipe.data).items()}

    def lost(self) -> dict[str, Lost]:
        """What of each training source can't be read."""
        return {name: lost(source) for name, source in self.sources.named(self.recipe.data).items()}

    def recipe_data(self) -> dict[str, Any]:
        """The resolved recipe as JSON data."""
        return _recipe_data(self.recipe)


def open_run(
    recipe: Recipe,
    plugins: Plugins,
    world: World,
    sources: Sources,
    *,
    resume: bool,
    allow_change: bool = False,
) -> Run:
    """Opens the data, builds networks and optimisers, and loads the newest checkpoint on a resume.

    Raises:
        DataError: A source can't be read.
        CheckpointError: The checkpoint is damaged or of another recipe.
        DistributedError: The ranks hold different recipes or plugins.
    """
    folder = RunFolder.of(recipe)
    if recipe.run.threads is not None:
        torch.set_num_threads(recipe.run.threads)
    torch.use_deterministic_algorithms(recipe.run.deterministic)
    _check_ranks(recipe, plugins)
    named = sources.named(recipe.data)
    prepare_sources(named, recipe, plugins, world)
    checkpoint = _checkpoint(folder, recipe, plugins, allow_change=allow_change) if resume else None
    kernels = choose_kernels(recipe.kernels, plugins, world.device)
    if checkpoint is not None:
        extra = checkpoint.manifest.extra
        kernels, lines = keep_kernels(kernels, recipe.kernels, extra, world.device)
        for line in lines:
            _log.warning(line)
    networks, dims = build.build_run_networks(recipe, plugins, pretrained=checkpoint is None, kernels=kernels)
    loaded: frozenset[str] = frozenset()
    if recipe.init_from is not None and checkpoint is None:
        initialised = init_from(recipe.init_from, networks, plugins)
        loaded = initialised.whole
        for line in initialised.lines:
            _log.info(line)
    if checkpoint is None:
        warn_of_untrained(networks, recipe, loaded)
    check_classes(named, recipe, networks)
    build.apply_freezes(networks, recipe)
    move(networks, world.device)
    needs = {name: objective.views() for name, objective in networks.objectives.items()}
    counted = None if checkpoint is None else checkpoint.manifest.extra.get("bad_samples")
    loader = partial(
        training_loader, recipe, plugins, named, needs, world, folder, dims.patch, counted=counted
    )
    options = build.forward_options(recipe)
    if checkpoint is None:
        check_latents(named, recipe, networks, {})  # calibration reads latents, which may have another shape
        reading = partial(training_loader, recipe, plugins, named)
        view_rows = {name: view.rows for name, view in recipe.views.items()}
        calibrate_fresh(
            networks,
            world,
            options,
            lambda asks, steps: reading(asks, world, folder, dims.patch, 0, steps),
            view_rows,
            loaded,
        )
    ema = build.build_run_ema(networks, recipe)
    wrap(
        networks,
        build_mesh(world, recipe.parallel.shard),
        activation_checkpoint=recipe.parallel.activation_checkpoint,
        compile=recipe.parallel.compile,
    )
    optimizer, critics = build.build_optimizers(networks, recipe, plugins)
    guard = Guard(recipe.run.max_skipped_steps)
    steps, audited = recipe.run.steps, recipe.run.audit_gradients
    run = Run(
        recipe=recipe,
        plugins=plugins,
        world=world,
        folder=folder,
        sources=sources,
        loader=loader,
        networks=networks,
        kernels=kernels,
        ema=ema,
        optimizer=optimizer,
        critics=critics,
        guard=guard,
        joint=JointStep(
            networks,
            world,
            options,
            Update(networks, world, optimizer, ema, guard, steps, audited=audited),
            Critics(networks, world, critics, guard) if critics else None,
            guard,
        ),
        start=0 if checkpoint is None else checkpoint.manifest.step,
    )
    if checkpoint is not None:
        load(checkpoint.path, run.state())
        guard.resume(checkpoint.manifest.extra.get("guard", {}), checkpoint.path.name)
        before = checkpoint.manifest.extra.get("source_lengths", {})
        for name, count in run.source_lengths().items():
            if before.get(name, count) != count:
                _log.warning(
                    "source %s: %d samples, %s at the checkpoint; from here on their order is another one",
                    name,
                    count,
                    before[name],
                )
    if checkpoint is not None:
        check_latents(named, recipe, networks, run.state())
    log_notices(networks)
    loader(run.start)  # raises now if a source lacks a field that a view needs
    return run


def training_loader(
    recipe: Recipe,
    plugins: Plugins,
    sources: Mapping[str, Source],
    needs: Mapping[str, Mapping[str, ViewNeed]],
    world: World,
    folder: RunFolder,
    patch: int,
    start: int,
    steps: int | None = None,
    *,
    counted: object = None,
) -> Loader:
    """The loader of a run's training data.

    Args:
        recipe: The recipe.
        plugins: Where augmentations are looked up.
        sources: Source name -> opened source.
        needs: Objective -> view -> what it asks of it.
        world: This rank.
        folder: Where bad samples are noted.
        patch: Pixels a patch side.
        start: First step.
        steps: Step after the last one; default: that of the run.
        counted: The bad samples that a checkpoint has counted (`Quarantine.resume`).

    Raises:
        CheckpointError: `counted` is damaged.
        DataError: A source is empty or lacks a field that a view needs.
    """
    loader = Loader(
        recipe.views,
        group_needs(needs, needs),
        sources,
        seed=recipe.run.seed,
        rank=world.rank,
        world_size=world.size,
        start_step=start,
        steps=recipe.run.steps if steps is None else steps,
        patch=patch,
        workers=recipe.data.workers,
        prefetch=recipe.data.prefetch,
        max_bad_fraction=recipe.data.max_bad_fraction,
        quarantine=folder.quarantine(world.rank),
        pin_memory=world.device.type == "cuda",
        plugins=plugins,
    )
    loader.quarantine.resume(counted, world.rank, world.size)
    return loader


def _checkpoint(
    folder: RunFolder, recipe: Recipe, plugins: Plugins, *, allow_change: bool
) -> Checkpoint | None:
    """The checkpoint that a run resumes from; None if none was published yet."""
    if not on_first_rank(lambda: published(folder.checkpoints)):
        _log.warning("%s: no checkpoint to resume from; the run starts at step 0", folder)
        return None
    try:
        checkpoint = find_latest(folder.checkpoints)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}. To start at step 0, move {folder.checkpoints} away and use --resume again, or choose "
            "another folder with --out FOLDER"
        ) from None
    path, manifest = checkpoint.path, checkpoint.manifest
    for line in check_resume(path, manifest, recipe, plugins, allow_change):
        _log.warning("changed since the checkpoint: %s", line)
    return checkpoint


def _check_ranks(recipe: Recipe, plugins: Plugins) -> None:
    """All ranks must hold the same recipe and plugins."""
    plugin_versions = {plugin.name: str(plugin.version) for plugin in plugins}
    own = json.dumps([_recipe_data(recipe), plugin_versions], sort_keys=True)
    for rank, other in enumerate(gather_objects(own)):
        if other != own:
            raise DistributedError(
                f"rank {rank} has another recipe or other plugins than this rank; check its files"
            )


def _recipe_data(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", by_alias=True)
