"""Process group, sharding, activation checkpointing and compiling, in the order in which a run wraps modules.

Sharded units (FSDP2) are every block and the root of encoder, bottleneck and decoder, and every child module
of an objective. An objective's direct parameters, critics and frozen helpers stay replicated; gradients of
these are averaged once, after all backwards.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
import torch.utils.checkpoint
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from vtp_core.errors import DistributedError, UsageError
from vtp_core.training.networks import PARTS, Networks
from vtp_core.training.ranks.world import World


def join_world(device: str, timeout_minutes: float = 10.0) -> World:
    """Joins the ranks that torchrun or ``vtp run --nproc`` started; alone without their variables.

    A second stage of a process uses the process group of the first; `leave_world` ends it.

    Args:
        device: ``cpu``, ``cuda`` or ``auto`` (cuda if there is one).
        timeout_minutes: How long a collective may wait for the other ranks.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError('run.device = "cuda", but torch sees no CUDA device; use "cpu" or "auto"')
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(device=torch.device(device, 0) if device == "cuda" else torch.device(device))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    try:
        if not dist.is_initialized():
            backend = "nccl" if device == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
    except (RuntimeError, ValueError) as error:
        rank = os.environ.get("RANK", "?")
        raise DistributedError(f"rank {rank} of {size} could not join the others: {error}") from error
    place = torch.device("cuda", local_rank) if device == "cuda" else torch.device("cpu")
    return World(rank=dist.get_rank(), size=dist.get_world_size(), device=place)


def leave_world() -> None:
    """Ends the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def build_mesh(world: World, shard: int) -> DeviceMesh | None:
    """The mesh replicate x shard; None with one rank.

    Args:
        world: This rank.
        shard: Ranks that hold one copy of the parameters together; 1 replicates.
    """
    if world.size == 1:
        return None
    if world.size % shard:
        raise UsageError(f"parallel.shard = {shard} does not divide the world size {world.size}")
    kind = world.device.type
    if shard == world.size:
        return init_device_mesh(kind, (world.size,), mesh_dim_names=("shard",))
    return init_device_mesh(kind, (world.size // shard, shard), mesh_dim_names=("replicate", "shard"))


def move(networks: Networks, device: torch.device) -> None:
    """Moves all modules to the rank's device, before EMA copies are made and modules sharded."""
    modules = (networks.encoder, networks.bottleneck, networks.decoder, *networks.objectives.values())
    for module in (*modules, *networks.frozen.values()):
        module.to(device)


def wrap(
    networks: Networks,
    mesh: DeviceMesh | None,
    *,
    activation_checkpoint: Literal["none", "block"] = "none",
    compile: Literal["none", "block"] = "none",
) -> None:
    """Checkpoints and compiles blocks, of objectives' modules too, and shards all modules, in this order.

    Names of parameters and modules stay as they were, so checkpoints don't depend on the wrapping.
    """
    own = [child for name in networks.objectives for _, child in networks.children_of(name)]
    for module in (networks.encoder, networks.decoder, *own, *networks.ema.values()):
        for block in _blocks(module):
            if activation_checkpoint == "block":
                _checkpoint(block)
            if compile == "block":
                block.compile()
    if compile == "block":
        # Student, teacher, masked and packed variants share the limit; past it torch falls back to eager.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    if mesh is None:
        return
    for part in PARTS:
        shard_tree(networks.part(part), mesh)
    register_fsdp_forward_method(networks.bottleneck, "decode_codes")  # it may read parameters: codebooks
    for teacher in networks.ema.values():
        shard_tree(teacher, mesh)
    for objective in networks.objectives:
        for _, child in networks.children_of(objective):
            shard_tree(child, mesh)
    _broadcast_replicated(networks)


def shard_tree(module: nn.Module, mesh: DeviceMesh) -> None:
    """Shards a module: its blocks, if it has any, and itself.

    All of them reshard after each forward. FSDP2 would keep a root whole until its backward, which a teacher
    never has and a skipped step may not have: the next forward would read the weights before the update.
    """
    for block in _blocks(module):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    if any(True for _ in module.parameters()):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)


def _blocks(module: nn.Module) -> Sequence[nn.Module]:
    """The units of an encoder, a decoder or any module with a method `blocks`."""
    blocks: Callable[[], Sequence[nn.Module]] | None = getattr(module, "blocks", None)
    # An nn.ModuleList of that name is callable too, but no method.
    return blocks() if callable(blocks) and not isinstance(blocks, nn.Module) else ()


def replicated(networks: Networks, owners: Iterable[str]) -> list[nn.Parameter]:
    """Trainable parameters of some owners that every rank holds whole."""
    return [
        parameter
        for owner in owners
        for parameter in networks.parameters_of(owner).values()
        if parameter.requires_grad and not isinstance(parameter, DTensor)
    ]


def reduce_replicated(networks: Networks, owners: Iterable[str], world: World) -> None:
    """Averages the gradients of replicated parameters over ranks, in one call."""
    if world.size == 1:
        return
    grads = [parameter.grad for parameter in replicated(networks, owners) if parameter.grad is not None]
    if not grads:
        return
    flat = world.average(torch.cat([grad.detach().reshape(-1).double() for grad in grads]))
    for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


def _broadcast_replicated(networks: Networks) -> None:
    """Copies rank 0's replicated parameters to all ranks."""
    for parameter in replicated(networks, (*networks.owners(), *networks.critics())):
        dist.broadcast(parameter.detach(), src=0)


def _checkpoint(block: nn.Module) -> None:
    """Checkpoints a block's activations: its forward runs again in backward. Module names don't change."""
    inner = block.forward

    @functools.wraps(inner)
    def forward(*args: object, **kwargs: object) -> object:
        if not torch.is_grad_enabled():
            return inner(*args, **kwargs)
        call = functools.partial(inner, **kwargs)
        return torch.utils.checkpoint.checkpoint(call, *args, use_reentrant=False)

    block.forward = forward
