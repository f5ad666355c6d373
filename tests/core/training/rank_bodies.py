"""What the ranks of the distributed tests run; module-level functions, so that processes can be spawned."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from tests.core.training.toy import add_teachers, batches, build, gradients
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.joint import JointStep
from vtp_core.training.ranks.parallel import build_mesh, reduce_replicated, wrap
from vtp_core.training.ranks.world import World


class Capture:
    """Stands where the optimisers do: averages replicated gradients and notes all of them."""

    def __init__(self, networks, world: World) -> None:
        self.networks, self.world, self.found, self.tallies = networks, world, {}, {}

    def __call__(self, index, tallies, active):
        reduce_replicated(self.networks, self.networks.owners(), self.world)
        self.found |= {k: v for k, v in gradients(self.networks).items() if ".critic." not in k}
        self.tallies = tallies
        return {}

    def update(self, name, index, tally=None):
        reduce_replicated(self.networks, [f"{name}.critic"], self.world)
        self.found |= {k: v for k, v in gradients(self.networks).items() if f"{name}.critic." in k}
        return {}

    def zero_grad(self, *_):
        for owner in (*self.networks.owners(), *self.networks.critics()):
            for parameter in self.networks.parameters_of(owner).values():
                parameter.grad = None


def captured(
    world: World, kind: str, *, vq=False, chunk=None, checkpoint=False, shard=None, index=0
) -> Capture:
    networks = add_teachers(build(kind, vq=vq))
    mesh = build_mesh(world, shard or world.size)
    wrap(networks, mesh, activation_checkpoint="block" if checkpoint else "none")
    capture = Capture(networks, world)
    options = ForwardOptions(total=10, microbatch_rows=chunk)
    step = JointStep(networks, world, options, update=capture, critics=capture)
    capture.result = step(batches(index, rank=world.rank, world_size=world.size), index, measure=True)
    return capture


def gradients_of_cases(world: World, cases: list[dict]) -> dict[str, Tensor]:
    """``<case>|grad|<parameter>``, ``<case>|term|<name>``, ``<case>|tally|...`` of every case."""
    found: dict[str, Tensor] = {}
    for number, case in enumerate(cases):
        capture = captured(world, **case)
        found |= {f"{number}|grad|{name}": value for name, value in capture.found.items()}
        found |= {
            f"{number}|term|{k}": torch.tensor(v, dtype=torch.float64)
            for k, v in capture.result.terms.items()
        }
        norms = capture.result.gradients
        found |= {f"{number}|norm|{k}": torch.tensor(v, dtype=torch.float64) for k, v in norms.items()}
        for owner, tally in capture.tallies.items():
            found |= {f"{number}|tally|{owner}.{name}": value for name, value in tally.sums.items()}
            found |= {f"{number}|tally|{owner}.rows.{name}": value for name, value in tally.rows.items()}
    return copy.deepcopy(found)
