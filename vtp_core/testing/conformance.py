"""Checks that any objective has to pass; three lines in a plugin's own tests.

Example::

    from vtp_core.testing import check_objective

    def test_my_objective():
        check_objective(MyObjective, MyConfig(use="my.objective", view="main"))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from vtp_core.config import ObjectiveConfig
from vtp_core.objective import AdversarialObjective, Objective
from vtp_core.parameters import Dims
from vtp_core.testing.case import Case, ConformanceError
from vtp_core.testing.networks import TINY_DIMS
from vtp_core.testing.rank_checks import check_processes, check_ranks

__all__ = ["ConformanceError", "check_objective"]


def check_objective(
    target: type[Objective],
    config: ObjectiveConfig,
    *,
    dims: Dims = TINY_DIMS,
    rows: int = 8,
    size: int = 32,
    counts: Mapping[str, int] | None = None,
    frozen: Mapping[str, nn.Module] | None = None,
    shared: Mapping[str, nn.Module] | None = None,
    ranks: int = 2,
    processes: bool = False,
    seed: int = 0,
) -> None:
    """Checks an objective on drawn pictures and tiny networks, on a CPU, in seconds.

    Declared views are enough; losses are finite scalars; gradients reach every own trainable parameter and
    nothing frozen; no parameter is 0-D; ``state_dict`` goes round; the same seed gives the same loss;
    `forward` changes no state; bfloat16 is close to float32; several ranks give one rank's gradient.

    Args:
        target: The objective's class.
        config: Its table.
        dims: Sizes of the networks that it is built for.
        rows: Global rows of views for which the objective asks no number of its own.
        size: Pixels a side, a multiple of twice the patch.
        counts: Crop set -> crops a row.
        frozen: What ``step.frozen`` finds.
        shared: What ``step.shared`` finds.
        ranks: Ranks that the rows are dealt to, simulated by threads; 1 leaves that check out.
        processes: Whether to repeat it with real gloo processes.
        seed: Seed of weights, pictures and randomness.

    Raises:
        ConformanceError: A rule is broken.
    """
    case = Case(
        target=target,
        config=config,
        dims=dims,
        rows=rows,
        size=size,
        counts=counts,
        seed=seed,
        frozen=frozen,
        shared=shared,
    )
    check_gradients(case)
    check_repeatable(case)
    check_structure(case)
    check_precision(case)
    if isinstance(case.build(), AdversarialObjective):
        check_critic(case)
    if ranks > 1:
        check_ranks(case, ranks)
    if ranks > 1 and processes:
        check_processes(case, ranks)


def check_structure(case: Case) -> None:
    """Names, shapes and the state_dict."""
    objective = case.build()
    if dict(objective.views()) != dict(case.config.views()):
        raise case.fail("views() differs from config.views(), which `vtp validate` reads")
    for name, parameter in objective.named_parameters():
        if parameter.ndim == 0:
            raise case.fail(f"parameter {name!r} is 0-D and can't be sharded: give it shape (1,)")
    children = dict(objective.named_children())
    own = [name for name in objective.teachers if not name.startswith("tokenizer.")]
    direct = {name for name, _ in objective.named_parameters(recurse=False)}
    exported = [name for name in objective.exports.values() if name not in direct]
    named = {"teachers": own, "shares": objective.shares, "exports": exported}
    for kind, names in named.items():
        for name in names:
            if name not in children:
                raise case.fail(f"{kind} names {name!r}, but the child modules are {sorted(children)}")
    other = replace(case, seed=case.seed + 1).build()
    result = other.load_state_dict(objective.state_dict(), strict=True)
    first, second = _losses(case, objective), _losses(case, other)
    if result.missing_keys or result.unexpected_keys or not _equal(first, second):
        raise case.fail("another loss after a state_dict round trip: keep state in parameters and buffers")


def check_gradients(case: Case) -> None:
    """Losses are finite scalars, and their gradient goes where it should, nowhere else."""
    objective = case.build()
    critic = set(objective.critic.parameters()) if isinstance(objective, AdversarialObjective) else set()
    step = case.step(objective)
    losses = case.forward(objective, step)
    if not losses.terms:
        raise case.fail("forward() returned no term")
    for name, term in losses.terms.items():
        if term.numel() != 1 or not torch.isfinite(term).all():
            raise case.fail(f"term {name!r} is not a finite scalar: {term.tolist()}")
    total = losses.total()
    if not total.requires_grad:
        raise case.fail("no term depends on a network: was the graph cut by detach() or no_grad()?")
    total.backward()
    for name, parameter in objective.named_parameters():
        if parameter in critic and parameter.grad is not None:
            raise case.fail(f"the main pass left a gradient on the critic's {name!r}")
        if parameter.requires_grad and parameter.grad is None:
            raise case.fail(f"no gradient reaches its parameter {name!r}: use it or make it a buffer")
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            raise case.fail(f"the gradient of {name!r} is not finite")
    for name, module in (case.frozen or {}).items():
        if any(parameter.grad is not None for parameter in module.parameters()):
            raise case.fail(f"a gradient reaches the parameters of the frozen network {name!r}")
    for name, leaf in step.cuts.items():
        if leaf.grad is not None and not torch.isfinite(leaf.grad).all():
            raise case.fail(f"the gradient at {name} is not finite")


def check_repeatable(case: Case) -> None:
    """The same seed gives the same loss, and forward leaves parameters and buffers as they were."""
    objective = case.build()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = _losses(case, objective)
        torch.manual_seed(2)
        second = _losses(case, objective)
    for name, value in objective.state_dict().items():
        if not torch.equal(value, before[name]):
            raise case.fail(f"forward() changed {name!r}: hand sums to after_step through Losses.tally")
    if not _equal(first, second):
        raise case.fail("the same step gave another loss: draw from step.randn, step.rand or step.rng()")


def check_precision(case: Case, tolerance: float = 0.1) -> None:
    """Under bfloat16 autocast the terms stay near those of float32."""
    objective = case.build()
    plain = _losses(case, objective)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = _losses(case, objective)
    for name, term in plain.items():
        error = (rounded[name] - term).abs()
        if not error <= tolerance * (1 + term.abs()):
            raise case.fail(
                f"term {name!r}: {rounded[name].item():.4g} in bfloat16, {term.item():.4g} in float32"
            )


def check_critic(case: Case) -> None:
    """The critic's own losses train the critic and nothing else."""
    objective = case.build()
    assert isinstance(objective, AdversarialObjective)
    objective.requires_grad_(False)
    objective.critic.requires_grad_(True)
    step = case.step(objective)
    losses = objective.critic_loss(step)
    losses.total().backward()
    for name, parameter in objective.critic.named_parameters():
        if parameter.grad is None or not torch.isfinite(parameter.grad).all():
            raise case.fail(f"critic_loss() leaves no finite gradient on the critic's {name!r}")
    for name, leaf in step.cuts.items():
        if leaf.grad is not None:
            raise case.fail(f"critic_loss() sends a gradient to {name}: use step.detached")


def _losses(case: Case, objective: Objective) -> dict[str, Tensor]:
    losses = case.forward(objective, case.step(objective))
    return {name: term.detach().float() for name, term in losses.terms.items()}


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
