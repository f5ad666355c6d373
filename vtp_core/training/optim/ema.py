"""EMA copies: the teachers, exponential moving averages of their students.

A copy starts equal to its student, stays in evaluation mode and takes no gradient. Copies are made before
sharding; student and copy are then sharded alike, so that an update needs no communication.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vtp_core.errors import UsageError
from vtp_core.schedule import Scheduled, value_at
from vtp_core.training.networks import Networks
from vtp_core.training.ranks.shards import local


class Ema:
    """The EMA copies of a run by the names of their students, such as ``tokenizer.encoder``.

    A copy's tensors are saved as ``ema.<name>.*``.

    Attributes:
        students: Name -> student.
        modules: Name -> EMA copy.
    """

    def __init__(
        self,
        students: Mapping[str, nn.Module],
        momentum: Scheduled,
        momenta: Mapping[str, Scheduled] | None = None,
    ) -> None:
        """Copies the students.

        Args:
            students: Name -> module, not sharded yet; none inside another.
            momentum: Weight of the old value in an update, in [0, 1]; a number or a schedule.
            momenta: Name -> momentum, where it differs.

        Raises:
            UsageError: `momenta` names a module that has no EMA copy.
        """
        unknown = sorted(set(momenta or {}) - set(students))
        if unknown:
            known = ", ".join(students) or "none"
            raise UsageError(f"ema.momenta.{unknown[0]}: it has no EMA copy (those that have one: {known})")
        self.students = dict(students)
        self.modules = {name: _copied(student) for name, student in students.items()}
        self._momenta = {name: (momenta or {}).get(name, momentum) for name in students}

    def momentum(self, name: str, index: int, total: int) -> float:
        """Momentum of one copy at step `index` of `total`."""
        return value_at(self._momenta[name], index, total)

    @torch.no_grad()
    def update(self, index: int, total: int) -> None:
        """Moves every copy: ``ema = m * ema + (1 - m) * student``; buffers are copied.

        Args:
            index: Step that was just made (0-based).
            total: Steps of the run.

        Raises:
            UsageError: A student has other tensors than its copy, or is sharded differently.
        """
        for name, average in self.modules.items():
            pairs = list(_pairs(name, self.students[name], average))
            averaged = [(old, new) for old, new in pairs if isinstance(old, nn.Parameter)]
            copied = [(old, new) for old, new in pairs if not isinstance(old, nn.Parameter)]
            momentum = self.momentum(name, index, total)
            if averaged and momentum < 1.0:
                averages = [local(old) for old, _ in averaged]
                torch._foreach_lerp_(averages, [local(new) for _, new in averaged], 1.0 - momentum)
            for old, new in copied:
                local(old).copy_(local(new))

    def state_tensors(self) -> dict[str, Tensor]:
        """The live tensors of all copies by name, ``ema.<name>.<tensor>``; only buffers that are saved."""
        return {
            f"ema.{name}.{key}": tensor
            for name, module in self.modules.items()
            for key, tensor in module.state_dict().items()
        }


def build_ema(
    networks: Networks,
    momentum: Scheduled,
    momenta: Mapping[str, Scheduled] | None = None,
    *,
    further: Sequence[str] = (),
) -> Ema | None:
    """Copies what the objectives list as `teachers` into ``networks.ema``; before sharding.

    Args:
        networks: The run's modules.
        momentum: Of every copy.
        momenta: Name -> momentum, where it differs; names without a copy are left out.
        further: Names of other modules to average.

    Returns:
        The copies; None if there are none.

    Raises:
        UsageError: One of `further` is frozen, so that its average would be the network itself.
    """
    names = dict.fromkeys(
        child if child.startswith("tokenizer.") else f"objectives.{name}.{child}"
        for name, objective in networks.objectives.items()
        for child in objective.teachers
    )
    students = {name: networks.named(name) for name in (names | dict.fromkeys(further))}
    if not students:
        return None
    for name in further:
        trained = [parameter.requires_grad for parameter in students[name].parameters()]
        if trained and not any(trained):
            raise UsageError(f"ema.networks: {name} is frozen and equals its average; leave it out")
    ema = Ema(students, momentum, {name: m for name, m in (momenta or {}).items() if name in students})
    networks.ema = ema.modules
    return ema


def _copied(student: nn.Module) -> nn.Module:
    return copy.deepcopy(student).requires_grad_(False).eval()


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _pairs(name: str, student: nn.Module, average: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """(copy's, student's) tensors by name; the names and layouts have to be the same."""
    own, theirs = _tensors(average), _tensors(student)
    differing = sorted(own.keys() ^ theirs.keys())
    if differing:
        where = "the EMA copy" if differing[0] in own else "the student"
        raise UsageError(
            f"EMA copy of {name}: {differing[0]} exists only in {where}; modules must not change after start"
        )
    for key, tensor in own.items():
        if _layout(tensor) != _layout(theirs[key]):
            raise UsageError(
                f"EMA copy of {name}: {key} is laid out as {_layout(tensor)}, "
                f"its student as {_layout(theirs[key])}; shard both alike"
            )
        yield tensor, theirs[key]


def _layout(tensor: Tensor) -> tuple[object, ...]:
    sharding = (tensor.device_mesh, tensor.placements) if isinstance(tensor, DTensor) else ()
    return tuple(tensor.shape), tensor.dtype, *sharding
