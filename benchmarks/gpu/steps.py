"""Steps of a recipe with its real networks on drawn rows: time, memory, operations, losses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from vtp_core.ops import AttentionCase, attention_choice
from vtp_core.plugins import load_plugins
from vtp_core.recipe import load_recipe
from vtp_core.run.setup import build
from vtp_core.run.setup.kernels import RunKernels, choose_kernels
from vtp_core.training.groups import group_needs
from vtp_core.training.joint import JointStep
from vtp_core.training.networks import Networks
from vtp_core.training.optim.guard import Guard
from vtp_core.training.optim.update import Update
from vtp_core.training.ranks.parallel import move, wrap
from vtp_core.training.ranks.world import World
from vtp_plugins.kernels.timing import clock_for
from vtp_plugins.plan.drawn import drawn_batches


def measure(order: dict[str, Any]) -> dict[str, Any]:
    """Makes the steps.

    Args:
        order: ``recipe``, ``device``, ``rows`` a view, ``sets`` as on the command line, ``steps``.

    Returns:
        JSON data: ``losses`` and ``seconds`` of each step, ``flop`` of one by torch's operators,
        ``memory_bytes``, ``parameters``, ``attention``, ``rows``.
    """
    plugins, device = load_plugins(), torch.device(order["device"])
    recipe = load_recipe(Path(order["recipe"]), tuple(order["sets"]), plugins)
    kernels = choose_kernels(recipe.kernels, plugins, device)
    networks, dims = build.build_run_networks(recipe, plugins, kernels=kernels)
    build.apply_freezes(networks, recipe)
    move(networks, device)
    ema = build.build_run_ema(networks, recipe)
    wrap(networks, None, activation_checkpoint=recipe.parallel.activation_checkpoint)
    optimizer, _ = build.build_optimizers(networks, recipe, plugins)
    guard, world = Guard(recipe.run.max_skipped_steps), World(device=device)
    update = Update(networks, world, optimizer, ema, guard, recipe.run.steps)
    joint = JointStep(networks, world, build.forward_options(recipe), update, guard=guard)
    needs = group_needs(joint.needs, joint.needs)
    rows = {view: order["rows"].get(view, recipe.views[view].rows) for view in needs}
    batches = {
        view: drawn_batches(recipe, {view: need}, dims, rows[view])[view].to(device)
        for view, need in needs.items()
    }
    clock, _ = clock_for(2, order["device"])
    losses, seconds = [], []
    for index in range(order["steps"]):
        start = clock()
        result = joint(batches, index)
        seconds.append(clock() - start)
        if result.skipped is not None:
            raise RuntimeError(f"step {index} was skipped: {result.skipped}")
        losses.append(result.terms)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    used = _attention(networks, kernels, device)
    # torch counts its own operators: one more step by them, which is not timed.
    RunKernels(attention=attention_choice("sdpa"), nearest_code=kernels.nearest_code).use_in(
        [*_modules(networks), *networks.ema.values()]
    )
    with FlopCounterMode(display=False) as counter:
        joint(batches, order["steps"])
    return {
        "losses": losses,
        "seconds": seconds,
        "flop": float(counter.get_total_flops()),
        "memory_bytes": memory,
        "parameters": sum(parameter.numel() for parameter in _trainable(networks)),
        "attention": used,
        "rows": rows,
    }


def _trainable(networks: Networks) -> list[torch.nn.Parameter]:
    owned = (networks.parameters_of(owner).values() for owner in networks.owners())
    return [parameter for of_one in owned for parameter in of_one if parameter.requires_grad]


def _modules(networks: Networks) -> list[torch.nn.Module]:
    return [networks.encoder, networks.bottleneck, networks.decoder, *networks.objectives.values()]


def _attention(networks: Networks, kernels: RunKernels, device: torch.device) -> str:
    """What takes packed crops in bfloat16, and what one image at a time."""
    found = {}
    for packed in (False, True):
        case = AttentionCase(
            device=device.type, dtype=torch.bfloat16, tokens=257, width=64, packed=packed, lse=False,
            rope=torch.bfloat16, index=device.index,
        )  # fmt: skip
        found[packed] = kernels.attention.pick(case).name
    return f"{found[False]}, for packed crops {found[True]}"


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    Path(asked["file"]).write_text(json.dumps(measure(asked)))
