"""EMA twins: teachers that follow their students by an exponential moving average.

A twin starts as a copy of its student, is in eval mode and takes no gradient. Copies are made before
sharding; student and twin are then sharded alike, so that an update needs no communication.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vtp_core.errors import UsageError
from vtp_core.schedule import Scheduled, value_at
from vtp_core.training.optim.clipping import local


class Twins:
    """The EMA twins of a run, by the name of their students.

    Names are ``tokenizer.encoder``, ``objectives.<name>.<child>`` and the like; a twin's tensors are saved as
    ``ema.<name>.*``.
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
            momentum: Share of the old value that an update keeps, in [0, 1]; a number or a schedule.
            momenta: Deviating momentum by name.

        Raises:
            UsageError: `momenta` names a module that has no twin.
        """
        unknown = sorted(set(momenta or {}) - set(students))
        if unknown:
            known = ", ".join(students) or "none"
            raise UsageError(f"ema.momenta.{unknown[0]}: nothing asks for this twin (there are: {known})")
        self.students = dict(students)
        self.modules = {name: _twin(student) for name, student in students.items()}
        """Name -> teacher."""
        self._momenta = {name: (momenta or {}).get(name, momentum) for name in students}

    def momentum(self, name: str, index: int, total: int) -> float:
        """Momentum of one twin at step `index` of `total`."""
        return value_at(self._momenta[name], index, total)

    @torch.no_grad()
    def update(self, index: int, total: int) -> None:
        """Moves every twin: ``teacher = m * teacher + (1 - m) * student``; buffers are copied.

        Args:
            index: Step that was just made (0-based).
            total: Steps of the run.

        Raises:
            UsageError: A student has other tensors than its twin, or is sharded otherwise.
        """
        for name, teacher in self.modules.items():
            pairs = list(_pairs(name, self.students[name], teacher))
            averaged = [(old, new) for old, new in pairs if isinstance(old, nn.Parameter)]
            copied = [(old, new) for old, new in pairs if not isinstance(old, nn.Parameter)]
            momentum = self.momentum(name, index, total)
            if averaged and momentum < 1.0:
                teachers = [local(old) for old, _ in averaged]
                torch._foreach_lerp_(teachers, [local(new) for _, new in averaged], 1.0 - momentum)
            for old, new in copied:
                local(old).copy_(local(new))

    def state_tensors(self) -> dict[str, Tensor]:
        """The live tensors of all twins by name, ``ema.<name>.<tensor>``; no buffers that are not saved."""
        return {
            f"ema.{name}.{key}": tensor
            for name, module in self.modules.items()
            for key, tensor in module.state_dict().items()
        }


def _twin(student: nn.Module) -> nn.Module:
    return copy.deepcopy(student).requires_grad_(False).eval()


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _pairs(name: str, student: nn.Module, teacher: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """(teacher's, student's) tensors by name; the names and layouts have to be the same."""
    own, theirs = _tensors(teacher), _tensors(student)
    differing = sorted(own.keys() ^ theirs.keys())
    if differing:
        where = "the twin" if differing[0] in own else "the student"
        raise UsageError(
            f"twin of {name}: {differing[0]} exists only in {where}; modules must not change after start"
        )
    for key, tensor in own.items():
        if _layout(tensor) != _layout(theirs[key]):
            raise UsageError(
                f"twin of {name}: {key} is laid out as {_layout(tensor)}, "
                f"its student as {_layout(theirs[key])}; shard both alike"
            )
        yield tensor, theirs[key]


def _layout(tensor: Tensor) -> tuple[object, ...]:
    sharding = (tensor.device_mesh, tensor.placements) if isinstance(tensor, DTensor) else ()
    return tuple(tensor.shape), tensor.dtype, *sharding
