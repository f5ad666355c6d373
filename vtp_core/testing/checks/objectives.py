"""Checks that any objective has to pass; three lines in a plugin's own tests.

Example::

    from vtp_core.testing import check_objective

    def test_my_objective():
        check_objective(MyObjective, MyConfig(use="my.objective", view="main"))
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vtp_core.config import ObjectiveConfig
from vtp_core.objective import Objective
from vtp_core.parameters import Dims
from vtp_core.testing.checks.parts import unchanged
from vtp_core.testing.checks.trial import Outcome, Trial
from vtp_core.testing.errors import ConformanceError
from vtp_core.testing.networks import TINY_DIMS, name_of, tiny_run
from vtp_core.testing.ranks import run_processes, run_ranks
from vtp_core.training.forward.forwards import Forwards
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.forward.step import EngineStep
from vtp_core.training.ranks.tallies import reduce_tally
from vtp_core.training.ranks.world import World

__all__ = ["ConformanceError", "check_objective"]

_RANKS = (
    "use step.mean for means, step.gather for rows of other ranks, step.randn and step.rand for random "
    "numbers, and sums over rows, not means, in a tally"
)
_SUMS = "observe returns sums over rows, not means"
_CHUNKS = "a module that step.call runs treats each row on its own (no BatchNorm)"


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
    """Runs an objective through the engine on drawn pictures and tiny networks, on a CPU, in seconds.

    What a run refuses is refused: views, layers, masks, teachers and shared modules that are not declared,
    parameters without gradient or without dimension, non-finite losses, a critic that runs the shared
    networks. Beyond that, `forward` changes no state; no step writes into shared tensors or draws from global
    generators; own modules run through ``step.call``; gathered tensors get a gradient; ``state_dict`` goes
    round; empty masks, bfloat16, row chunks and several ranks give the numbers of one whole batch.

    Args:
        target: The objective's class.
        config: Its table.
        dims: Sizes of the networks that it is built for.
        rows: Global rows of views for which the objective asks no number of its own.
        size: Side in pixels, a multiple of twice the patch.
        counts: Crop set -> crops per row.
        frozen: What ``step.frozen`` finds.
        shared: What ``step.shared`` finds.
        ranks: Ranks that the rows are dealt to, simulated by threads; 1 leaves that check out.
        processes: Whether to repeat it with real gloo processes and sharded modules.
        seed: Seed of weights, pictures and randomness.

    Raises:
        ConformanceError: A rule is broken.
    """
    trial = Trial(
        target=target,
        config=config,
        dims=dims,
        rows=rows,
        ranks=ranks,
        size=size,
        counts=counts,
        seed=seed,
        frozen=frozen,
        shared=shared,
    )
    check_structure(trial)
    with torch.random.fork_rng(devices=[]):
        check_calibration(trial)
        whole = check_steps(trial)
        check_exactness(trial, whole)
    if ranks > 1 and processes:
        _compare(trial, f"{ranks} processes", whole, run_processes(ranks, _sharded, trial)[0], _RANKS)


def check_structure(trial: Trial) -> None:
    """Views, and the modules that attributes name."""
    with trial.refusals():
        objective = trial.build()
    if dict(objective.views()) != dict(trial.config.views()):
        raise trial.fail("views() differs from config.views(), which `vtp validate` reads")
    if objective.exports:
        check_meta(trial)
    children = dict(objective.named_children())
    own = [name for name in objective.teachers if not name.startswith("tokenizer.")]
    direct = {name for name, _ in objective.named_parameters(recurse=False)}
    exported = [name for name in objective.exports.values() if name not in direct]
    for kind, names in {"teachers": own, "shares": objective.shares, "exports": exported}.items():
        for name in names:
            if name not in children:
                raise trial.fail(f"{kind} names {name!r}, but the child modules are {sorted(children)}")


def check_meta(trial: Trial) -> None:
    """An objective that exports modules can be built on the meta device, as loading an artefact does."""
    try:
        with torch.device("meta"):
            trial.build()
    except Exception as error:
        raise trial.fail(
            f"can't be built on the meta device ({error}), so that no artefact with its exports loads: "
            "don't read values of tensors in __init__"
        ) from error


def check_calibration(trial: Trial) -> None:
    """`observe` changes no state, and sets the same state on any number of ranks."""
    if not trial.build().calibration_rows:
        return
    with trial.refusals():
        whole = _calibrated(World(), trial)
    if trial.ranks > 1:
        for rank, found in enumerate(run_ranks(trial.ranks, lambda world: _calibrated(world, trial))):
            _compare(trial, f"{trial.ranks} ranks (calibrated, on rank {rank})", whole, found, _SUMS)


def _calibrated(world: World, trial: Trial) -> Mapping[str, Tensor]:
    """The state of an objective that has seen one batch."""
    objective = trial.build()
    networks = tiny_run(objective, trial.dims, frozen=trial.frozen, shared=trial.shared, seed=trial.seed)
    needs = dict(objective.views())
    forwards = Forwards(networks, world, trial.batches(world, 0), needs, ForwardOptions(seed=trial.seed), 0)
    with torch.no_grad(), unchanged(objective, "observe"):
        tally = objective.observe(EngineStep(forwards, name_of(objective), needs))
    forwards.close()
    objective.calibrate(reduce_tally([tally], world))
    state = {f"state {name}": value for name, value in objective.state_dict().items()}
    for name, value in state.items():
        if not bool(value.isfinite().all()):
            raise trial.fail(f"{name} is not finite after calibrate()")
    return state


def check_steps(trial: Trial) -> Mapping[str, Tensor]:
    """Two steps; then the first again: from a state_dict, without masks, from cached latents, in bfloat16.

    Returns:
        What one step with all rows at once gives.
    """
    torch.manual_seed(1)
    first = trial.run(steps=2)
    _check_after_step(trial, first)
    torch.manual_seed(2)
    again = trial.run()
    if again.terms != first.terms:
        raise trial.fail("the same step gave another loss: draw from step.randn, step.rand or step.rng()")
    other = trial.build(seed=1)
    other.load_state_dict(trial.build().state_dict())
    if trial.run(other).terms != first.terms:
        raise trial.fail("another loss after a state_dict round trip: keep state in parameters and buffers")
    needs = trial.config.views().values()
    if any(need.masked for need in needs):
        try:
            trial.run(masked=False)
        except ConformanceError as error:
            advice = "in a step without masked patches: an empty mask counts as zeros, not as an early return"
            raise ConformanceError(f"{error} ({advice})") from error
    if any(need.latent for need in needs):
        trial.run(cached=True)
    _check_rounded(trial, first, trial.run(autocast=torch.bfloat16))
    return again.tensors


def check_exactness(trial: Trial, whole: Mapping[str, Tensor]) -> None:
    """Row chunks and ranks give the gradients, tallies and buffers of one rank with all rows at once."""
    for chunk in (1, 3):
        _compare(trial, f"row chunks of {chunk}", whole, trial.run(chunk=chunk).tensors, _CHUNKS)
    if trial.ranks > 1:
        every = run_ranks(trial.ranks, lambda world: trial.run(world=world).tensors)
        for rank, found in enumerate(every):
            _compare(trial, f"{trial.ranks} ranks (on rank {rank})", whole, found, _RANKS)


def _check_after_step(trial: Trial, outcome: Outcome) -> None:
    objective = outcome.watch.objective
    overridden = type(objective).after_step is not Objective.after_step
    if overridden and not outcome.watch.has_tally and any(True for _ in objective.buffers()):
        raise trial.fail("after_step() is never called, as forward() returns no tally: set Losses.tally")
    if outcome.watch.has_tally and not overridden:
        raise trial.fail("forward() returns a tally, but there is no after_step() to take it")


def _check_rounded(trial: Trial, plain: Outcome, rounded: Outcome) -> None:
    for name, dtype in rounded.watch.terms.items():
        if dtype.itemsize < 4:
            kind = str(dtype).removeprefix("torch.")
            raise trial.fail(
                f"term {name!r} is {kind} under autocast: compute losses in float32, with .float()"
            )
    for name, value in plain.terms.items():
        if not abs(rounded.terms[name] - value) <= 0.1 * (1 + abs(value)):
            raise trial.fail(f"{name}: {rounded.terms[name]:.4g} in bfloat16, {value:.4g} in float32")


def _sharded(world: World, trial: Trial) -> Mapping[str, Tensor]:
    return trial.run(world=world, sharded=True).tensors


def _compare(
    trial: Trial, who: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor], advice: str
) -> None:
    """Compares by name; what is zero but for rounding is measured against the largest of its kind."""
    largest: dict[str, float] = {}
    for name, tensor in expected.items():
        kind = name.partition(" ")[0]
        largest[kind] = max(largest.get(kind, 0.0), _greatest(tensor))
    for name in (*expected, *(name for name in found if name not in expected)):
        if name not in expected or name not in found:
            raise trial.fail(f"{name} is there for {'one rank' if name in expected else who} alone: {advice}")
        error, scale = _greatest(found[name] - expected[name]), _greatest(expected[name])
        kind = name.partition(" ")[0]
        # Rounding turns the sign of an activation here and there, and with it a part of a gradient.
        relative = 1e-3 if kind == "gradient" else 1e-4
        if not error <= relative * scale + 1e-5 * largest[kind]:
            raise trial.fail(
                f"{who} give another {name} than one rank with all rows (off by {error:.3g} of {scale:.3g}): "
                f"{advice}"
            )


def _greatest(tensor: Tensor) -> float:
    return tensor.double().abs().max().item() if tensor.numel() else 0.0
