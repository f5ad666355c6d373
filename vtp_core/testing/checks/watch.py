"""Watches the steps of a tiny run for changed state, writes into shared tensors and lost gradients."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from vtp_core.batch import Batch
from vtp_core.features import Losses
from vtp_core.objective import AdversarialObjective
from vtp_core.testing.errors import ConformanceError
from vtp_core.testing.others import Others
from vtp_core.training.forward.cut import Cut, Phase
from vtp_core.training.forward.observer import Key
from vtp_core.training.forward.seeds import derive_seed
from vtp_core.training.networks import Networks
from vtp_core.training.ranks.shards import local
from vtp_core.training.ranks.world import World

_MODULE = frozenset(vars(nn.Module()))


@dataclass(frozen=True, kw_only=True)
class WatchedWorld(World):
    """One rank that records the gradients of gathered tensors.

    Attributes:
        gathers: One list per gathered tensor that takes a gradient: the gradients that came back.
    """

    gathers: list[list[Tensor]] = field(default_factory=list)

    def gather(self, x: Tensor) -> Tensor:
        """`x`, as a tensor of its own."""
        gathered = x.view_as(x)
        if x.requires_grad:
            self.gathers.append([])
            if gathered.requires_grad:
                gathered.register_hook(self.gathers[-1].append)
        return gathered


class Watch(Others):
    """Watches the steps of a tiny run and refuses what breaks a rule.

    Args:
        fail: Makes the error for a message.
        networks: The run's modules.
        name: The tested objective's.
        world: This rank.

    Attributes:
        terms: Names of the terms that `forward` returned, with their dtypes.
        has_tally: Whether `forward` returned a tally in any step.
    """

    def __init__(
        self, fail: Callable[[str], ConformanceError], networks: Networks, name: str, world: World
    ) -> None:
        super().__init__(world)
        self._fail, self._networks, self._name, self._world = fail, networks, name, world
        self.objective = networks.objectives[name]
        self.terms: dict[str, torch.dtype] = {}
        self.has_tally = False
        self._depth = 0
        self._served: list[tuple[str, Tensor, Tensor]] = []
        self._outside: list[str] = []

    def ran(self, key: Key, cut: Cut, module: nn.Module) -> None:
        """Keeps a copy of what a verb serves."""
        super().ran(key, cut, module)
        if key[1] != "call":
            self._served += [(f"step.{key[1]}({key[2]!r})", leaf, _copy(leaf)) for leaf in cut.leaves()]

    @contextmanager
    def span(self, key: Key, phase: Phase) -> Iterator[None]:
        """Counts nested runs of networks by the engine."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    @contextmanager
    def over(self, batches: Mapping[str, Batch]) -> Iterator[None]:
        """Watches a joint step on `batches`.

        Raises:
            ConformanceError: A rule is broken.
        """
        self._served = [
            (f"step.batch({view!r})", tensor, _copy(tensor)) for view, tensor in _tensors(batches)
        ]
        attributes, generators = self._attributes(), _global_generators()
        with ExitStack() as stack:
            for handle in self._hooks():
                stack.callback(handle.remove)
            yield
        self._check_served()
        if self._world.size == 1 and (drawn := _changed(generators, _global_generators())):
            raise self._fail(
                f"a step changes the state of {drawn}: draw from step.randn, step.rand or step.rng(), and "
                "set no seed"
            )
        if changed := _changed(attributes, self._attributes()):
            raise self._fail(
                f"a step changes the attribute {changed!r}, which no checkpoint holds: keep state in buffers "
                "and update them in after_step, from Losses.tally"
            )

    def check_gradients(self) -> None:
        """Refuses, after the main pass, gradients that are missing or where they don't belong."""
        if name := self._with_gradient(self._networks.critics()):
            raise self._fail(f"forward() leaves a gradient on the critic's {name!r}")
        if isinstance(self._world, WatchedWorld) and not all(self._world.gathers):
            raise self._fail(
                "no gradient came back to what step.gather returned: use it without detach() or no_grad(), "
                "in every direction of a contrast; for targets, gather x.detach()"
            )
        if self._outside:
            raise self._fail(
                f"the parameter {self._outside[0]!r} is trained by a call outside step.call: run its module "
                "by step.call(module, *rows), which makes row chunks and gathers sharded weights"
            )

    def check_left_gradients(self) -> None:
        """Refuses, after a step, gradients of `critic_loss` on what the main optimiser trains."""
        if name := self._with_gradient(self._networks.owners()):
            raise self._fail(
                f"critic_loss() leaves a gradient on {name!r}, which would add to the next step's: only the "
                "critic's parameters train there"
            )

    def check_losses(self, losses: object, who: str) -> None:
        """Refuses what is no `Losses` of finite scalars, and losses that train nothing."""
        if not isinstance(losses, Losses):
            raise self._fail(f"{who} returned {type(losses).__name__}, not Losses")
        if not losses.terms:
            raise self._fail(f"{who} returned no term")
        for name, term in losses.terms.items():
            if term.numel() != 1 or not torch.isfinite(term).all():
                raise self._fail(f"term {name!r} of {who} is not a finite scalar: {term.tolist()}")
        if not losses.total().requires_grad:
            raise self._fail(f"no term of {who} depends on a network: was the graph cut by detach()?")

    def _hooks(self) -> Iterator[Any]:
        """Handles of the hooks of one step."""
        before: dict[str, Tensor] = {}

        def enter(*_: object) -> None:
            before.update({name: _copy(tensor) for name, tensor in self._state().items()})

        def leave(_: nn.Module, __: object, losses: Losses) -> None:
            self.check_losses(losses, "forward()")
            self.clear()
            self.terms = {name: term.dtype for name, term in losses.terms.items()}
            self.has_tally |= losses.tally is not None
            self._check_served()
            self._check_terms(list(losses.terms))
            after = self._state()
            for name in after.keys() | before.keys():
                if name not in before or name not in after or not torch.equal(after[name], before[name]):
                    raise self._fail(f"forward() changed {name!r}: do that in after_step, from Losses.tally")

        yield self.objective.register_forward_pre_hook(enter)
        yield self.objective.register_forward_hook(leave)
        for objective in self._networks.objectives:
            for child, module in self._networks.children_of(objective):
                for name, parameter in module.named_parameters(prefix=child):
                    if parameter.requires_grad:
                        yield parameter.register_post_accumulate_grad_hook(self._note(name))
        if isinstance(self.objective, AdversarialObjective):
            yield _CriticHook(self.objective, self)

    def _note(self, name: str) -> Callable[[Tensor], None]:
        return lambda _: None if self._depth else self._outside.append(name)

    def _with_gradient(self, owners: Iterable[str]) -> str | None:
        for owner in owners:
            for name, parameter in self._networks.parameters_of(owner).items():
                if parameter.grad is not None:
                    return name
        return None

    def _check_served(self) -> None:
        for what, tensor, before in self._served:
            if not torch.equal(tensor.detach(), before):
                raise self._fail(f"a step writes into what {what} returned, which others read: clone it")

    def _check_terms(self, terms: list[str]) -> None:
        if self._world.size > 1:
            codes = self._world.all_gather(torch.tensor(derive_seed(*terms)))
            if any(code != codes[0] for code in codes):
                raise self._fail(
                    f"ranks return different terms, rank {self._world.rank}: {terms}; every rank returns the "
                    "same, with an empty mask too"
                )

    def _state(self) -> dict[str, Tensor]:
        named = (*self.objective.named_parameters(), *self.objective.named_buffers())
        return {name: local(tensor) for name, tensor in named}

    def _attributes(self) -> dict[str, object]:
        own = {id(tensor) for tensor in (*self.objective.parameters(), *self.objective.buffers())}
        return {
            f"{path}.{name}".lstrip("."): _print(value, own)
            for path, module in self.objective.named_modules()
            for name, value in vars(module).items()
            if name not in _MODULE
        }


class _CriticHook:
    """Hook on `critic_loss` by which `watch` checks its losses, until `remove`."""

    def __init__(self, objective: AdversarialObjective, watch: Watch) -> None:
        self._objective, inner = objective, objective.critic_loss

        def critic_loss(step: Any) -> Losses:
            losses = inner(step)
            watch.check_losses(losses, "critic_loss()")
            return losses

        objective.__dict__["critic_loss"] = critic_loss

    def remove(self) -> None:
        """Restores `critic_loss`."""
        del self._objective.__dict__["critic_loss"]


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _tensors(batches: Mapping[str, Batch]) -> Iterator[tuple[str, Tensor]]:
    for view, batch in batches.items():
        masks = () if batch.masks is None else (batch.masks.mask, batch.masks.weight)
        for tensor in (*batch.crops.values(), batch.label, batch.latent, *masks):
            if tensor is not None:
                yield view, tensor


def _changed(before: Mapping[str, object], after: Mapping[str, object]) -> str | None:
    names = [*after, *(name for name in before if name not in after)]
    return next((name for name in names if before.get(name) != after.get(name)), None)


def _global_generators() -> dict[str, object]:
    name, keys, position, *_ = numpy.random.get_state()
    return {
        "torch's global generator": bytes(torch.get_rng_state().numpy()),
        "Python's global generator": random.getstate(),
        "NumPy's global generator": (name, numpy.asarray(keys).tobytes(), position),
    }


def _print(value: object, own: set[int]) -> object:
    """A fingerprint that differs after a change of `value`; of tensors in `own`, only after replacement."""
    if isinstance(value, Tensor):
        return id(value), None if id(value) in own else value._version
    if isinstance(value, torch.Generator):
        return bytes(value.get_state().numpy())
    if isinstance(value, Mapping):
        return tuple((repr(key), _print(item, own)) for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(_print(item, own) for item in value)
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return type(value), repr(value)
    return id(value)
