"""Loads weights into a network."""

from __future__ import annotations

from torch import nn

from vtp_core.errors import UsageError
from vtp_plugins.pretrained.lookup import Pretrained


def load_weights(module: nn.Module, found: Pretrained, prefix: str = "") -> None:
    """Replaces the network's parameters and buffers; weights of layers that it lacks are ignored.

    Args:
        module: The network, or the part of it whose names start with `prefix` in the weights.
        found: The weights.
        prefix: Optional prefix of the weights' names.

    Raises:
        UsageError: A tensor of the network is missing or has another shape.
    """
    own = module.state_dict()
    state = {name: found.state.get(prefix + name, found.state.get(name)) for name in own}
    wrong = [name for name, tensor in state.items() if tensor is None or tensor.shape != own[name].shape]
    if wrong:
        raise UsageError(
            f"weights of {found.network} ({found.origin}): {prefix}{wrong[0]} is missing or misshapen; "
            "give the network's own weights"
        )
    module.load_state_dict(
        {name: tensor.to(own[name].dtype) for name, tensor in state.items() if tensor is not None},
        assign=True,
    )
