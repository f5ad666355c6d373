"""One objective under test, run by the engine on tiny networks: joint step, optimisers, teachers, critics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.nn.modules.dropout import _DropoutNd

from vtp_core.batch import Batch
from vtp_core.config import ObjectiveConfig
from vtp_core.errors import VtpError
from vtp_core.features import Tally
from vtp_core.objective import Objective
from vtp_core.parameters import Dims
from vtp_core.recipe.tables.optimizer import AdamWConfig
from vtp_core.testing.batches import CROP_COUNTS, drawn_batch
from vtp_core.testing.checks.watch import Watch, WatchedWorld
from vtp_core.testing.errors import ConformanceError
from vtp_core.testing.networks import TINY_DIMS, name_of, tiny_run
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.forward.seeds import generator
from vtp_core.training.joint import JointStep
from vtp_core.training.networks import Networks
from vtp_core.training.optim.critics import Critics, build_critic_optimizers
from vtp_core.training.optim.ema import build_ema
from vtp_core.training.optim.guard import Guard
from vtp_core.training.optim.optimizer import build_optimizer
from vtp_core.training.optim.owners import build_owners
from vtp_core.training.optim.update import Update
from vtp_core.training.ranks.parallel import build_mesh, wrap
from vtp_core.training.ranks.world import World

_DECLARED = "; does views() declare all that is read (crops, layers, masked, text, label)?"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the steps of a tiny run did.

    Attributes:
        terms: ``term NAME`` -> global value in the first step.
        tensors: The same, ``gradient of PARAMETER`` and ``tally NAME`` of the first step, and ``buffer NAME``
            after the last.
        watch: What was seen of the last step.
    """

    terms: Mapping[str, float]
    tensors: Mapping[str, Tensor]
    watch: Watch


@dataclass(frozen=True, kw_only=True)
class Trial:
    """An objective under test.

    Attributes:
        target: The objective's class.
        config: Its table.
        dims: Sizes of the networks.
        rows: Global rows of views for which the objective asks no number of its own.
        ranks: Ranks that the rows are dealt to in some runs; the last one's have no masked patch in any.
        size: Side in pixels.
        counts: Crop set -> crops per row.
        seed: Seed of weights, pictures and randomness.
        frozen: What ``step.frozen`` finds.
        shared: What ``step.shared`` finds.
    """

    target: type[Objective]
    config: ObjectiveConfig
    dims: Dims = TINY_DIMS
    rows: int = 8
    ranks: int = 2
    size: int = 32
    counts: Mapping[str, int] | None = None
    seed: int = 0
    frozen: Mapping[str, nn.Module] | None = None
    shared: Mapping[str, nn.Module] | None = None

    def fail(self, message: str) -> ConformanceError:
        """The error for a broken rule."""
        return ConformanceError(f"{self.target.__name__} ({self.config.use}): {message}")

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Turns what the engine refuses, and errors of the objective, into the error for a broken rule."""
        try:
            yield
        except ConformanceError:
            raise
        except VtpError as error:
            raise self.fail(str(error)) from error
        except Exception as error:
            hint = _DECLARED if isinstance(error, KeyError | TypeError | AttributeError) else ""
            raise self.fail(f"a joint step raised {type(error).__name__}: {error}{hint}") from error

    def build(self, seed: int = 0) -> Objective:
        """The objective with weights of a seed, in training mode, of weight 1 and without dropout.

        Dropout draws by row chunk and rank, so that no two ways to run a step would give the same numbers.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + seed)
            objective = self.target(self.config.model_copy(update={"weight": 1.0}), self.dims)
        for module in objective.modules():
            if isinstance(module, _DropoutNd):
                module.p = 0.0
        return objective.train()

    def batches(
        self, world: World, index: int, *, masked: bool = True, cached: bool = False
    ) -> dict[str, Batch]:
        """This rank's rows of each view; with `cached`, latents in the place of pixels where they serve."""
        batches = {}
        for view, need in self.config.views().items():
            rows = need.rows or self.rows
            last = range(self.ranks - 1, rows, self.ranks) if self.ranks > 1 else ()
            batch = drawn_batch(
                need,
                rows=rows,
                size=self.size,
                counts=CROP_COUNTS if self.counts is None else self.counts,
                dims=self.dims,
                world=world,
                seed=self.seed,
                index=index,
                unmasked=last if masked else range(rows),
            )
            batches[view] = replace(batch, crops={}) if cached and batch.latent is not None else batch
        return batches

    def run(
        self,
        objective: Objective | None = None,
        *,
        world: World | None = None,
        chunk: int | None = None,
        autocast: torch.dtype | None = None,
        steps: int = 1,
        sharded: bool = False,
        masked: bool = True,
        cached: bool = False,
    ) -> Outcome:
        """Runs joint steps with all updates, watched.

        Args:
            objective: The objective; None builds it.
            world: The ranks; one by default.
            chunk: Rows per chunk; None runs all at once.
            autocast: Precision of the forwards.
            steps: Steps, from the first in which the objective is active.
            sharded: Whether to shard the modules over (real) ranks.
            masked: Whether any patch is masked.
            cached: Whether views hold cached latents in the place of pixels, where the objective allows it.

        Raises:
            ConformanceError: A rule is broken, or the engine refuses something.
        """
        world = WatchedWorld() if world is None else world
        objective = self.build() if objective is None else objective
        networks = tiny_run(objective, self.dims, frozen=self.frozen, shared=self.shared, seed=self.seed)
        start = self.config.start
        watch = Watch(self.fail, networks, name_of(objective), world)
        witness = _Witness()
        options = ForwardOptions(
            seed=self.seed, total=start + 100, microbatch_rows=chunk, autocast=autocast, observer=watch
        )
        terms: dict[str, float] = {}
        with self.refusals():
            networks.check()
            update, critics = _updates(networks, world, watch, witness, options.total, sharded=sharded)
            joint = JointStep(networks, world, options, update, critics, witness)
            for index in range(start, start + steps):
                batches = self.batches(world, index, masked=masked, cached=cached)
                with watch.over(batches):
                    result = joint(batches, index)
                if result.skipped is not None:
                    raise self.fail(result.skipped)
                terms = terms or {f"term {term}": value for term, value in result.terms.items()}
                watch.check_left_gradients()
        tallies = {f"tally {key}": value for key, value in update.tallies.items()}
        gradients = {f"gradient of {key}": value for key, value in witness.gradients.items()}
        buffers = {f"buffer {key}": _whole(value) for key, value in networks.buffers().items()}
        values = {key: torch.tensor(value, dtype=torch.float64) for key, value in terms.items()}
        return Outcome(terms=terms, tensors=values | tallies | gradients | buffers, watch=watch)


class _Witness(Guard):
    """A guard that keeps the gradients of the first step."""

    def __init__(self) -> None:
        super().__init__(max_skipped=0)
        self.gradients: dict[str, Tensor] = {}

    def audit(self, owner: str, parameters: Mapping[str, Parameter]) -> None:
        """Keeps an owner's gradients."""
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                self.gradients.setdefault(name, _whole(parameter.grad))
        super().audit(owner, parameters)


class _Update(Update):
    """An update that lets the watch check the gradients, and keeps the first reduced tally.

    Args:
        watch: The watch.
        arguments: Those of `Update`.
    """

    def __init__(self, watch: Watch, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._watch = watch
        self.tallies: dict[str, Tensor] = {}

    def __call__(self, index: int, tallies: Mapping[str, Tally], active: Sequence[str]) -> dict[str, float]:
        """Runs the update of step `index`."""
        self._watch.check_gradients()
        for tally in tallies.values():
            for kind, values in (("sums", tally.sums), ("rows", tally.rows)):
                for key, value in values.items():
                    self.tallies.setdefault(f"{kind}[{key!r}]", value.detach().clone())
        return super().__call__(index, tallies, active)


def _updates(
    networks: Networks, world: World, watch: Watch, guard: Guard, total: int, *, sharded: bool
) -> tuple[_Update, Critics | None]:
    """Teachers that differ from their students, optimisers and critics, in the order of a run."""
    ema = build_ema(networks, 0.9)
    with torch.no_grad():
        for name, module in networks.ema.items():
            for key, parameter in module.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator("teacher", name, key))
                parameter.add_(0.1 * noise.to(parameter))
    if sharded:
        wrap(networks, build_mesh(world, world.size))
    optimizer = build_optimizer(build_owners(networks, {}), AdamWConfig(lr=1e-3, clip=None), total)
    update = _Update(watch, networks, world, optimizer, ema, guard, total)
    critics = build_critic_optimizers(networks, total)
    return update, Critics(networks, world, critics, guard) if critics else None


def _whole(tensor: Tensor) -> Tensor:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().clone()
