"""Estimated memory of a rank in a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from vtp_plugins.plan.sizes import OwnerSize, Sizes
from vtp_plugins.plan.work import Work

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak bytes per rank in a step.

    Attributes:
        weights: Parameters of all owners, trainable or not.
        gradients: Gradients of trainable parameters, float32.
        optimizer: State of the optimisers, such as AdamW's two moments.
        ema: Teachers.
        frozen: Frozen networks.
        gathered: The largest sharded module, unsharded, with its gradients and the weights of the next one.
        data: Pixels, as uint8 and normalised.
        activations: Activations of the largest group.
    """

    weights: int
    gradients: int
    optimizer: int
    ema: int
    frozen: int
    gathered: int
    data: int
    activations: int

    @property
    def total(self) -> int:
        """Sum of all."""
        return sum(getattr(self, item.name) for item in fields(self))


def estimate(works: Sequence[Work], sizes: Sizes, *, pixels: int, shard: int) -> Memory:
    """The estimate.

    Args:
        works: Everything that the step runs.
        sizes: Parameters.
        pixels: Pixel values of this rank's views, over all crops and channels.
        shard: Ranks that share one copy of the parameters.
    """

    def held(owner: OwnerSize, elements: float, whole: int) -> float:
        """Bytes per rank of `elements` bytes of an owner that is sharded in part."""
        sharded = owner.sharded / whole if whole else 0.0
        return elements * (sharded / shard + 1 - sharded)

    owners = [(owner, owner.parameters) for owner in sizes.owners]
    groups = {work.group for work in works}
    return Memory(
        weights=round(sum(held(owner, owner.bytes, whole) for owner, whole in owners)),
        gradients=round(sum(held(owner, 4 * owner.trainable, whole) for owner, whole in owners)),
        optimizer=round(sum(held(owner, owner.state, whole) for owner, whole in owners)),
        ema=round(sum(teacher.bytes for teacher in sizes.teachers) / shard),
        frozen=sum(network.bytes for network in sizes.frozen),
        gathered=3 * sizes.largest_unit if shard > 1 else 0,
        data=5 * pixels,
        activations=max(
            (group_activations([work for work in works if work.group == group]) for group in groups),
            default=0,
        ),
    )


def group_activations(works: Sequence[Work]) -> int:
    """Peak bytes of one group's activations: before its first backward, or in the largest chunk.

    The graphs of all networks are kept until the objectives are done; that of an objective is freed after its
    backward. With chunks, networks keep only their outputs and the graph of one chunk at a time; with
    checkpointed blocks, the inputs and the graph of one block at a time.
    """
    networks = [work for work in works if work.network]
    kept = sum(_kept(work) for work in networks)
    chunk = max((_again(work) for work in networks), default=0.0)
    own = []
    for name in {name for work in works for name in work.objectives}:
        mine = [work for work in works if work.objectives[0] == name and work.verb in ("loss", "call")]
        calls = [_again(work) for work in mine]
        own.append(sum(_kept(work) for work in mine) + max(calls, default=0.0))
    critics = [_kept(work) for work in works if work.verb == "critic"]
    return round(max(kept + max([*own, chunk], default=0.0), *critics, 0.0))


def _again(work: Work) -> float:
    """Bytes of the chunk or block that is recomputed in the backward."""
    return (work.chunk.saved if work.chunks > 1 else 0.0) + work.chunk.rerun


def _kept(work: Work) -> float:
    graph = work.cost.saved if work.chunks == 1 else 0.0
    return graph + work.cost.outputs + work.cost.gradients
