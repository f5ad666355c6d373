"""Everything a checkpoint holds, as live tensors by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from vtp_core.training.networks import Networks
from vtp_core.training.optim.ema import Ema
from vtp_core.training.optim.optimizer import MainOptimizer


def model_state(networks: Networks) -> dict[str, Tensor]:
    """Parameters and persistent buffers of tokenizer, objectives and critics.

    Frozen helpers are left out, and parameters that a module's state dict leaves out.
    """
    owners = (*networks.owners(), *networks.critics())
    state: dict[str, Tensor] = {
        name: p for owner in owners for name, p in networks.parameters_of(owner).items()
    }
    for name, module in (pair for owner in owners for pair in networks.modules_of(owner)):
        kept = module.state_dict(keep_vars=True)
        for key, _ in module.named_parameters():
            if key not in kept:
                del state[f"{name}.{key}"]
    return state | networks.buffers()


def training_state(
    networks: Networks, ema: Ema | None, optimizer: MainOptimizer, critics: Mapping[str, MainOptimizer]
) -> dict[str, Tensor]:
    """`model_state`, EMA copies and the state of all optimisers."""
    state = model_state(networks)
    if ema is not None:
        state |= ema.state_tensors()
    for each in (optimizer, *critics.values()):
        state |= each.state_tensors()
    return state


@torch.no_grad()
def whole(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors unsharded, on the CPU; every rank calls it."""
    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()
        for name, tensor in state.items()
    }
