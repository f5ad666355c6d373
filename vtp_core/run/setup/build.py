"""Builds the networks, EMA copies and optimisers of a recipe."""

from __future__ import annotations

import torch
from torch import nn

from vtp_core.artefact.assembly import build_networks
from vtp_core.errors import UsageError
from vtp_core.objective import Objective
from vtp_core.parameters import Dims
from vtp_core.plugins import Plugins
from vtp_core.recipe.tables.recipe import FrozenConfig, Recipe
from vtp_core.recipe.tokenizers import locate
from vtp_core.run.setup.kernels import RunKernels, choose_kernels
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.forward.seeds import seeded
from vtp_core.training.networks import PARTS, Networks
from vtp_core.training.optim.critics import build_critic_optimizers
from vtp_core.training.optim.ema import Ema, build_ema
from vtp_core.training.optim.optimizer import MainOptimizer, build_optimizer
from vtp_core.training.optim.owners import build_owners, freeze


def build_run_networks(
    recipe: Recipe,
    plugins: Plugins,
    *,
    load_frozen: bool = True,
    pretrained: bool = True,
    depth: int | None = None,
    kernels: RunKernels | None = None,
) -> tuple[Networks, Dims]:
    """The run's modules with fresh weights, on the CPU, without EMA copies.

    Each objective draws its weights from a seed of its own: adding one changes no other.

    Args:
        recipe: The recipe.
        plugins: Where components are looked up.
        load_frozen: Whether frozen networks get their weights; `vtp plan` leaves them uninitialised.
        pretrained: Whether the tokenizer's parts read pretrained weights; a resume has its own.
        depth: Number of encoder blocks that the other components are built for; None: the encoder's own.
            `vtp plan` measures a shallow encoder instead of the recipe's.
        kernels: Implementations of operators; None: those that the recipe chooses on a CPU.
    """
    seed = recipe.run.seed
    with seeded(seed, "init", "tokenizer"):
        tables = [
            table if pretrained else table.restored()
            for table in (recipe.encoder, recipe.bottleneck, recipe.decoder)
        ]
        parts = build_networks(plugins, *tables, depth=depth)
    assert parts.decoder is not None
    objectives: dict[str, Objective] = {}
    for name, config in recipe.objectives.items():
        with seeded(seed, "init", "objectives", name):
            objectives[name] = plugins.find("objective", config.use).load_target()(config, parts.dims)
    frozen: dict[str, nn.Module] = {}
    for name, table in recipe.frozen.items():
        with seeded(seed, "init", "frozen", name):
            frozen[name] = _frozen(name, table, plugins, load=load_frozen).requires_grad_(False).eval()
    networks = Networks(
        encoder=parts.encoder,
        bottleneck=parts.bottleneck,
        decoder=parts.decoder,
        objectives=objectives,
        frozen=frozen,
    )
    if depth is None:  # otherwise layers beyond the encoder's are asked of it
        networks.check()
    kernels = kernels or choose_kernels(recipe.kernels, plugins, torch.device("cpu"))
    tokenizer = (parts.encoder, parts.bottleneck, parts.decoder)
    kernels.use_in((*tokenizer, *objectives.values(), *frozen.values()))
    return networks, parts.dims


def apply_freezes(networks: Networks, recipe: Recipe) -> list[str]:
    """Freezes what the recipe and the rules freeze; frozen tokenizer parts go to evaluation mode.

    Returns:
        Full names of the parameters that the rules froze.
    """
    for name in recipe.freeze:
        for parameter in networks.parameters_of(name).values():
            parameter.requires_grad_(False)
        (networks.part(name) if name in PARTS else networks.objectives[name]).eval()
    return freeze(build_owners(networks, recipe.optimizer.owners))


def build_run_ema(networks: Networks, recipe: Recipe) -> Ema | None:
    """EMA copies of the modules that objectives and ``[ema] networks`` name; before sharding."""
    return build_ema(networks, recipe.ema.momentum, recipe.ema.momenta, further=recipe.ema.networks)


def build_optimizers(
    networks: Networks, recipe: Recipe, plugins: Plugins
) -> tuple[MainOptimizer, dict[str, MainOptimizer]]:
    """The main optimiser, and one for each critic; after sharding."""
    owners = build_owners(networks, recipe.optimizer.owners)
    main = build_optimizer(owners, recipe.optimizer, recipe.run.steps, plugins)
    return main, build_critic_optimizers(networks, recipe.run.steps, plugins)


def forward_options(recipe: Recipe) -> ForwardOptions:
    """The options of all forward passes of the run."""
    return ForwardOptions(
        seed=recipe.run.seed,
        total=recipe.run.steps,
        microbatch_rows=recipe.run.microbatch_rows,
        autocast=torch.bfloat16 if recipe.run.precision == "bfloat16" else None,
        drop_path={name: view.drop_path for name, view in recipe.views.items()},
    )


def _frozen(name: str, table: FrozenConfig, plugins: Plugins, *, load: bool) -> nn.Module:
    """A frozen network with the weights of an artefact's encoder, of a safetensors file, or its own."""
    module: nn.Module = plugins.find("encoder", table.encoder.use).load_target()(table.encoder)
    if not load or "weights" in type(table.encoder).model_fields or table.weights == "random":
        return module
    if not table.weights:
        raise UsageError(
            f"frozen.{name}: give `weights` (an artefact folder or a .safetensors file); "
            'weights = "random" asks for an untrained network'
        )
    path = locate(table.weights, plugins)
    if path.is_dir():
        from vtp_core.artefact.loading import load as load_artefact

        state = load_artefact(path, plugins=plugins).encoder.state_dict()
    else:
        from vtp_core.artefact.weights import read_weights

        state = read_weights(path, module.state_dict())
    module.load_state_dict(state)
    return module
