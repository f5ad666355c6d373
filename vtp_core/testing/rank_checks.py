"""The check that W ranks give one rank's gradient, with threads and with real processes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vtp_core.features import Losses
from vtp_core.objective import Objective
from vtp_core.testing.case import Case
from vtp_core.testing.fake_step import FakeStep
from vtp_core.testing.ranks import Ranks, run_processes, run_ranks
from vtp_core.training.ranks.world import World


def check_ranks(case: Case, ranks: int) -> None:
    """The mean of W ranks' losses has the gradient of one rank with all rows."""
    objective = case.build(torch.float64)
    steps: list[FakeStep | None] = [None] * ranks

    def body(world: Ranks) -> Losses:
        step = steps[world.rank] = case.step(objective, world, torch.float64)
        return case.forward(objective, step)

    every = run_ranks(ranks, body)
    names = [list(losses.terms) for losses in every]
    if any(other != names[0] for other in names):
        raise case.fail(f"ranks return different terms: {names}")
    torch.stack([losses.total() for losses in every]).mean().backward()
    cuts = [step.cuts for step in steps if step is not None]
    merged = {name: [rank_cuts[name].grad for rank_cuts in cuts] for name in cuts[0]}
    got = _parameter_gradients(objective) | {name: _interleave(grads) for name, grads in merged.items()}
    _compare(case, got, _single(case), f"{ranks} ranks (threads)")


def check_processes(case: Case, ranks: int) -> None:
    """The same with real processes and the collectives of `vtp_core.training.ranks.world`."""
    every = run_processes(ranks, _process_gradients, case)
    single = _single(case)
    cuts = {name: _interleave([result.get(name) for result in every]) for name in single if "(" in name}
    names = [name for name in every[0] if "(" not in name]
    own = {name: torch.stack([result[name] for result in every]).mean(0) for name in names}
    scaled = {name: None if grad is None else grad / ranks for name, grad in cuts.items()}
    _compare(case, own | scaled, single, f"{ranks} processes")


def _process_gradients(world: World, case: Case) -> dict[str, Tensor]:
    objective = case.build(torch.float64)
    step = case.step(objective, world, torch.float64)
    case.forward(objective, step).total().backward()
    cuts = {name: leaf.grad for name, leaf in step.cuts.items()}
    return {name: grad for name, grad in (_parameter_gradients(objective) | cuts).items() if grad is not None}


def _single(case: Case) -> dict[str, Tensor | None]:
    objective = case.build(torch.float64)
    step = case.step(objective, dtype=torch.float64)
    case.forward(objective, step).total().backward()
    return _parameter_gradients(objective) | {name: leaf.grad for name, leaf in step.cuts.items()}


def _parameter_gradients(objective: Objective) -> dict[str, Tensor | None]:
    parameters = objective.named_parameters()
    return {name: parameter.grad for name, parameter in parameters if parameter.requires_grad}


def _interleave(grads: list[Tensor | None]) -> Tensor | None:
    held = [grad for grad in grads if grad is not None]
    return torch.stack(held, 1).flatten(0, 1) if len(held) == len(grads) else None


Gradients = Mapping[str, Tensor | None]
"""Name of a parameter, or of a cut with its verb and view, -> gradient; None if none reached it."""


def _compare(case: Case, got: Gradients, expected: Gradients, who: str) -> None:
    for name, gradient in expected.items():
        other = got.get(name)
        if gradient is None and other is None:
            continue
        zero = torch.zeros(())
        gradient, other = (zero if gradient is None else gradient), (zero if other is None else other)
        error, scale = (other - gradient).abs().max().item(), gradient.abs().max().item()
        if not error <= 1e-4 * scale + 1e-9:
            raise case.fail(
                f"{who} give another gradient than one rank at {name} (off by {error:.3g} of {scale:.3g}): "
                "use step.mean for means and step.gather for the rows of other ranks"
            )
