"""The rungs: three plain steps, then the joint step with one more of the framework's switches each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from benchmarks.joint_step.plain_steps import PlainSteps
from benchmarks.joint_step.setting import Sizes, fixed_batches, recipe
from vtp_core.plugins import load_plugins
from vtp_core.run.setup import build
from vtp_core.run.setup.kernels import choose_kernels
from vtp_core.training.joint import JointStep
from vtp_core.training.optim.guard import Guard
from vtp_core.training.optim.update import Update
from vtp_core.training.ranks.parallel import move, wrap
from vtp_core.training.ranks.world import World
from vtp_plugins.bench.config import Precision

Losses = dict[str, float]

SDPA = ("kernels.attention=sdpa",)
COMPILED = ("parallel.compile=block",)
CHECKPOINTED = ("parallel.activation_checkpoint=block",)

RUNGS: Mapping[str, tuple[str, ...] | None] = {
    "three plain steps": None,
    "joint": SDPA,
    "joint, own attention": (),
    "joint, own attention, shared encode": (),
    "joint, own attention, shared encode, compiled": COMPILED,
    "joint, own attention, checkpoints": CHECKPOINTED,
}
"""Rung -> overrides of the recipe; None: plain torch."""

WITHOUT_SWITCH = (
    "One fused AdamW, one clip, foreach EMA, packed crops and streamed cross-entropy are the framework's "
    "only way: they have no switch, so they are part of the first joint rung."
)

CLOSE: Mapping[Precision, float] = {"float32": 1e-5, "bfloat16": 2e-2}
"""Relative difference of a first loss that is allowed between rungs of one precision."""

CLOSE_ON_GPU: Mapping[Precision, float] = {"float32": 1e-3, "bfloat16": 2e-2}
"""The same on a GPU, where torch computes float32 convolutions in TF32."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One way to train a step.

    Attributes:
        name: Key of `RUNGS`.
        precision: Of the networks.
        step: Makes the next step on the same rows; returns the losses by term.
        first: The losses before anything moved.
    """

    name: str
    precision: Precision
    step: Callable[[], Losses]
    first: Losses


def build_rung(name: str, precision: Precision, sizes: Sizes, device: str = "cpu") -> Rung:
    """Networks and optimisers of a rung; makes no step for a plain one and one for a joint one."""
    if RUNGS[name] is None:
        return _plain(name, precision, sizes, torch.device(device))
    joint, batches = _joint(name, precision, sizes, torch.device(device)), fixed_batches(sizes)
    index = iter(range(1_000_000))

    def step() -> Losses:
        result = joint(batches, next(index))
        assert result.skipped is None, result.skipped
        return {name: value for name, value in result.terms.items() if name in _TERMS}

    return Rung(name=name, precision=precision, step=step, first=step())


_TERMS = ("clip/contrast", "dino/distillation", "mim/distillation", "koleo/spread", "l1/pixels")


def _joint(name: str, precision: Precision, sizes: Sizes, device: torch.device) -> JointStep:
    plugins, world = load_plugins(), World(device=device)
    overrides = (f"run.precision={precision}", *(RUNGS[name] or ()))
    table = recipe(sizes, overrides, plugins, shared="shared encode" in name)
    kernels = choose_kernels(table.kernels, plugins, device)
    networks, _ = build.build_run_networks(table, plugins, kernels=kernels)
    build.apply_freezes(networks, table)
    move(networks, device)
    ema = build.build_run_ema(networks, table)
    parallel = table.parallel
    wrap(
        networks,
        None,
        activation_checkpoint=parallel.activation_checkpoint,
        compile=parallel.compile,
    )
    optimizer, _ = build.build_optimizers(networks, table, plugins)
    guard = Guard(table.run.max_skipped_steps)
    update = Update(networks, world, optimizer, ema, guard, table.run.steps)
    return JointStep(networks, world, build.forward_options(table), update, guard=guard)


def _plain(name: str, precision: Precision, sizes: Sizes, device: torch.device) -> Rung:
    plugins = load_plugins()
    networks, _ = build.build_run_networks(recipe(sizes, (), plugins), plugins)
    batches = fixed_batches(sizes)
    text = networks.named("objectives.clip.text")
    ids = text.tokenizer(batches["image"].text)  # type: ignore[operator]
    narrow = torch.bfloat16 if precision == "bfloat16" else None
    steps = PlainSteps(sizes, networks, batches, ids, narrow, device)
    first: Losses = {}
    for loss in steps.losses.values():
        first |= {term: value.item() for term, value in loss()[1].items()}
    return Rung(name=name, precision=precision, step=steps.step, first=first)


def disagreement(found: Rung, expected: Rung, close: Mapping[Precision, float] = CLOSE) -> str | None:
    """A sentence if the first losses of two rungs differ by more than the coarser precision allows."""
    limit = max(close[found.precision], close[expected.precision])
    if found.first.keys() != expected.first.keys():
        return f"terms {sorted(found.first)} instead of {sorted(expected.first)}"
    for term, value in expected.first.items():
        if not abs(found.first[term] - value) <= limit * abs(value):
            return f"{term} is {found.first[term]:.6f} instead of {value:.6f}"
    return None
