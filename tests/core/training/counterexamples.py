"""Networks, rows and collectives that break one rule each, and what ranks make of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.core.training.rank_bodies import Capture
from tests.core.training.toy import WIDTH, Block, add_teachers, batches, build
from vtp_core.batch import Batch, Masks
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.joint import JointStep
from vtp_core.training.networks import Networks
from vtp_core.training.ranks.parallel import build_mesh, wrap
from vtp_core.training.ranks.world import World


class CountingBlock(Block):
    """Changes state in its forward: a second forward of the same rows is another one."""

    calls = 0

    def forward(self, drop_path, *sets):
        self.calls += 1
        return super().forward(drop_path, *(x * (1 + 0.1 * self.calls) for x in sets))


class OwnGeneratorBlock(Block):
    """Drops paths by a generator of its own, which the core can't seed."""

    generator: torch.Generator | None = None

    def forward(self, drop_path, *sets):
        if self.generator is None:
            self.generator = torch.Generator().manual_seed(5)
        kept = [torch.rand(len(x), 1, 1, generator=self.generator) >= 0.5 for x in sets]
        new = super().forward(0.0, *sets)
        return tuple(torch.where(k, y, x) for k, x, y in zip(kept, sets, new, strict=True))


class BatchNormBlock(Block):
    """Normalises over the rows that it happens to see together."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, drop_path, *sets):
        normed = [(x - x.mean((0, 1))) / (x.var((0, 1)) + 1e-5).sqrt() for x in sets]
        return super().forward(drop_path, *normed)


class Hidden:
    """A plain object round tensors: nobody can see that they are outputs."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self._tensors = tensors

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._tensors)


class HiddenOutputBlock(Block):
    def forward(self, drop_path, *sets):
        return Hidden(super().forward(drop_path, *sets))


@dataclass(frozen=True, kw_only=True)
class DetachedWorld(World):
    """Gathers without a gradient."""

    def gather(self, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x.detach().contiguous())
        return torch.stack(parts, 1).flatten(0, 1)


@dataclass(frozen=True, kw_only=True)
class LocalWorld(DetachedWorld):
    """Gathers with the gradient of its own rows alone, as a loss without a differentiable collective does."""

    def gather(self, x: Tensor) -> Tensor:
        gathered = super().gather(x).unflatten(0, (-1, self.size))
        own = torch.arange(self.size) == self.rank
        return torch.where(own.view(1, -1, *[1] * (x.ndim - 1)), x[:, None], gathered).flatten(0, 1)


def contiguous(batch: Batch, rank: int, size: int) -> Batch:
    """A rank's rows as one block instead of round-robin."""
    rows = slice(rank * len(batch) // size, (rank + 1) * len(batch) // size)
    assert batch.text is not None and batch.label is not None and batch.masks is not None
    return replace(
        batch,
        crops={name: crop[rows] for name, crop in batch.crops.items()},
        keys=batch.keys[rows],
        text=batch.text[rows],
        label=batch.label[rows],
        masks=Masks(mask=batch.masks.mask[rows], weight=batch.masks.weight[rows]),
    )


def with_blocks(networks: Networks, kind: type[Block]) -> Networks:
    """The networks with another kind of block in the encoder, of the same weights."""
    for block in networks.encoder.layers:
        block.__class__ = kind
    return networks


def gradients_of(
    world: World,
    networks: Networks,
    *,
    given: Mapping[str, Batch] | None = None,
    chunk: int | None = None,
    checkpoint: bool = False,
    drop_path: float = 0.0,
    compile: bool = False,
) -> dict[str, Tensor]:
    """Main gradients of step 0."""
    add_teachers(networks)
    wrap(
        networks,
        build_mesh(world, world.size),
        activation_checkpoint="block" if checkpoint else "none",
        compile="block" if compile else "none",
    )
    capture = Capture(networks, world)
    drops = dict.fromkeys(("image", "ssl", "rec"), drop_path)
    options = ForwardOptions(total=10, microbatch_rows=chunk, drop_path=drops)
    rows = batches(0, rank=world.rank, world_size=world.size) if given is None else given
    JointStep(networks, world, options, update=capture)(rows, 0)
    return {name: grad for name, grad in capture.found.items() if ".critic." not in name}


def on_two_ranks(world: World) -> dict[str, Tensor]:
    """Gradients by case; of the last case, whether it could be run at all."""
    ranks = {"rank": world.rank, "size": world.size}
    dealt = {view: contiguous(batch, **ranks) for view, batch in batches(0).items()}
    cases = {
        "right": gradients_of(world, build("one_view")),
        "contiguous rows": gradients_of(world, build("one_view"), given=dealt),
        "gather without gradient": gradients_of(DetachedWorld(**ranks), build("one_view")),
        "gather with the gradient of own rows": gradients_of(LocalWorld(**ranks), build("one_view")),
    }
    found = {f"{case}|{name}": grad for case, grads in cases.items() for name, grad in grads.items()}
    try:
        hidden = gradients_of(world, with_blocks(build("one_view"), HiddenOutputBlock))
        found |= {f"hidden outputs|{name}": grad for name, grad in hidden.items()}
    except Exception as error:  # what matters is that it is not silent
        print(f"hidden outputs: {type(error).__name__}: {error}")
    return found
