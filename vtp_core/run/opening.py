"""One run of one recipe: checks, set-up or resume, training, artefact, evaluation, report."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vtp_core.data.loading.loader import Loader
from vtp_core.data.opening import open_sources
from vtp_core.data.source import Source
from vtp_core.errors import DistributedError, UsageError
from vtp_core.parameters import Dims
from vtp_core.plugins import Plugins
from vtp_core.recipe import dump_toml
from vtp_core.recipe.tables.recipe import Recipe
from vtp_core.run import build
from vtp_core.run.calibrate import calibrate
from vtp_core.run.environment import describe_environment
from vtp_core.run.init_from import init_from
from vtp_core.run.kernels import RunKernels, choose_kernels, keep_kernels
from vtp_core.run.recipe_change import check_recipe
from vtp_core.run.records import RunFolder
from vtp_core.training.groups import group_needs
from vtp_core.training.joint import JointStep
from vtp_core.training.networks import Networks
from vtp_core.training.optim.critics import Critics
from vtp_core.training.optim.ema import Ema
from vtp_core.training.optim.guard import Guard
from vtp_core.training.optim.optimizer import MainOptimizer
from vtp_core.training.optim.update import Update
from vtp_core.training.ranks.parallel import build_mesh, move, wrap
from vtp_core.training.ranks.rank_objects import gather_objects
from vtp_core.training.ranks.world import World
from vtp_core.training.saving.checkpoint import find_latest, load, verify
from vtp_core.training.saving.manifest import read_manifest
from vtp_core.training.saving.state import training_state

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Run:
    """A run that is ready to train.

    Attributes:
        recipe: The checked recipe.
        plugins: Where its components come from.
        world: This rank.
        folder: The run folder.
        sources: Source name -> opened source.
        networks: All modules.
        dims: Their sizes.
        kernels: The implementations of operators that they use.
        ema: EMA copies, or None.
        optimizer: The main optimiser.
        critics: Objective -> its critic's optimiser.
        guard: Skips and stops.
        joint: Runs a step.
        start: First step; above 0 after a resume.
    """

    recipe: Recipe
    plugins: Plugins
    world: World
    folder: RunFolder
    sources: Mapping[str, Source]
    networks: Networks
    dims: Dims
    kernels: RunKernels
    ema: Ema | None
    optimizer: MainOptimizer
    critics: dict[str, MainOptimizer]
    guard: Guard
    joint: JointStep
    start: int = 0

    def state(self) -> dict[str, torch.Tensor]:
        """The live tensors of a checkpoint, by name."""
        return training_state(self.networks, self.ema, self.optimizer, self.critics)

    def recipe_data(self) -> dict[str, Any]:
        """The resolved recipe as JSON data."""
        return self.recipe.model_dump(mode="json", by_alias=True)

    def loader(self, start: int, stop: int | None = None) -> Loader:
        """The training loader from step `start`."""
        recipe = self.recipe
        return Loader(
            recipe.views,
            group_needs(self.joint.needs, self.joint.needs),
            self.sources,
            seed=recipe.run.seed,
            rank=self.world.rank,
            world_size=self.world.size,
            start_step=start,
            steps=recipe.run.steps if stop is None else stop,
            patch=self.dims.patch,
            workers=recipe.data.workers,
            prefetch=recipe.data.prefetch,
            max_bad_fraction=recipe.data.max_bad_fraction,
            quarantine=self.folder.quarantine(self.world.rank),
            pin_memory=self.world.device.type == "cuda",
        )


def open_run(
    recipe: Recipe, plugins: Plugins, world: World, *, resume: bool, allow_change: bool = False
) -> Run:
    """Opens data, builds networks and optimisers, and loads the newest checkpoint if resuming.

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
    sources = open_sources(recipe.data, plugins)
    previous = find_latest(folder.path) if resume and folder.has_checkpoints() else None
    if resume and previous is None:
        _log.warning("%s: no checkpoint to go on from; the run starts at step 0", folder)
    kernels = choose_kernels(recipe.kernels, plugins, world.device)
    if previous is not None:
        kernels, lines = keep_kernels(kernels, recipe.kernels, read_manifest(previous).extra, world.device)
        for line in lines:
            _log.warning(line)
    networks, dims = build.build_run_networks(recipe, plugins, kernels=kernels)
    if recipe.init_from is not None and previous is None:
        for line in init_from(recipe.init_from, networks, plugins):
            _log.info(line)
    build.apply_freezes(networks, recipe)
    move(networks, world.device)
    guard = Guard(recipe.run.max_skipped_steps)
    options = build.forward_options(recipe)
    joint = JointStep(networks, world, options, guard=guard)
    run = Run(
        recipe=recipe, plugins=plugins, world=world, folder=folder, sources=sources, networks=networks,
        dims=dims, kernels=kernels, ema=None, optimizer=None,  # type: ignore[arg-type]
        critics={}, guard=guard, joint=joint,
    )  # fmt: skip
    rows = networks.bottleneck.calibration_rows
    if rows and previous is None:
        view = next(iter(next(iter(joint.needs.values()))))
        calibrate(networks, world, options, run.loader(0), view, rows)
    run.ema = build.build_run_ema(networks, recipe)
    wrap(
        networks,
        build_mesh(world, recipe.parallel.shard),
        activation_checkpoint=recipe.parallel.activation_checkpoint,
        compile=recipe.parallel.compile,
    )
    run.optimizer, run.critics = build.build_optimizers(networks, recipe)
    joint.update = Update(
        networks, world, run.optimizer, run.ema, guard, recipe.run.steps, audited=recipe.run.audit_gradients
    )
    joint.critics = Critics(networks, world, run.critics, guard) if run.critics else None
    if previous is not None:
        manifest = verify(previous)
        if manifest.step > recipe.run.steps:
            raise UsageError(
                f"{previous}: {manifest.step} steps are made already, run.steps is {recipe.run.steps}; "
                "raise it, or choose another folder with -s run.out=FOLDER"
            )
        for line in check_recipe(previous, manifest, run.recipe_data(), plugins, allow_change):
            _log.warning("changed since the checkpoint: %s", line)
        load(previous, run.state())
        run.start = manifest.step
        guard.last_checkpoint = previous.name
    run.loader(run.start)  # says now what the data lacks
    return run


def write_records(run: Run) -> None:
    """Writes ``resolved.toml`` and ``environment.json``; rank 0 calls it."""
    run.folder.write_recipe(dump_toml(run.recipe))
    environment = describe_environment(
        run.plugins,
        device=run.world.device,
        world_size=run.world.size,
        kernels={"attention": run.recipe.kernels.attention, "nearest_code": run.recipe.kernels.nearest_code},
    )
    run.folder.write_environment(environment)


def _check_ranks(recipe: Recipe, plugins: Plugins) -> None:
    """All ranks must hold the same recipe and plugins."""
    plugin_versions = {plugin.name: str(plugin.version) for plugin in plugins}
    own = json.dumps([recipe.model_dump(mode="json", by_alias=True), plugin_versions], sort_keys=True)
    for rank, other in enumerate(gather_objects(own)):
        if other != own:
            raise DistributedError(
                f"rank {rank} has another recipe or other plugins than this rank; check its files"
            )
