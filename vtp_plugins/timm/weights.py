"""Pretrained weights of the `timm` encoder: reading, hash, license."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vtp_core.errors import UsageError
from vtp_plugins.pretrained.files import fingerprint
from vtp_plugins.pretrained.loading import load_weights
from vtp_plugins.pretrained.lookup import RANDOM, find_weights
from vtp_plugins.timm.config import TimmConfig
from vtp_plugins.timm.network import Layout, build_network

DINOV3 = (
    "DINOv3 License: it restricts use, and a copy of it has to accompany the weights and what is made with "
    "them (https://ai.meta.com/resources/models-and-libraries/dinov3-license/)"
)


def build_pretrained(config: TimmConfig) -> tuple[nn.Module, Layout, Tensor]:
    """The network with the weights that the table names; untrained on the meta device or with ``"random"``.

    Returns:
        The network, its layout, and the hash of its pretrained tensors, (8,) uint8; zeros if none were read.

    Raises:
        UsageError: The network can't be built, or its weights aren't found, don't fit or have another hash
            than the table's.
    """
    if config.weights == RANDOM or torch.empty(0).is_meta:
        return *build_network(config), torch.zeros(8, dtype=torch.uint8)
    try:
        found = find_weights(f"timm:{config.name}", config.weights)
        if config.store == "reference":
            # The table may be that of a downloaded artefact: no memory before the sizes are known to fit.
            with torch.device("meta"):
                load_weights(build_network(config)[0], found)
        network, layout = build_network(config)
        trained = [value.requires_grad for value in network.parameters()]
        load_weights(network, found)
    except UsageError as error:
        if config.store == "whole":
            raise
        wanted = f"{config.name} of hash {config.hash}" if config.hash else config.name
        raise UsageError(f"timm: fetch the weights of {wanted}, kept by reference: {error}") from None
    for value, trains in zip(network.parameters(), trained, strict=True):
        value.requires_grad_(trains)
    own = fingerprint(network.state_dict())
    if config.hash and own != config.hash:
        place = "" if config.weights is None else f" to {config.weights}"
        raise UsageError(
            f"timm: the weights found for {config.name} ({found.origin}) have hash {own}, not {config.hash}; "
            f"fetch those of that hash{place}"
        )
    if config.store == "reference" and not config.hash:
        raise UsageError(f'timm: store = "reference" needs the hash of the weights; set hash = "{own}"')
    return network, layout, torch.tensor(list(bytes.fromhex(own)), dtype=torch.uint8)


def notices(network: nn.Module, config: TimmConfig, digest: Tensor) -> Sequence[str]:
    """Lines on the weights that were read, their hash and their license; none for an untrained network."""
    if not digest.any():
        return ()
    pretrained: Any = network.pretrained_cfg
    terms = pretrained.get("license") or "unknown: ask its authors"
    line = f"{config.name} of timm: weights of hash {bytes(digest.tolist()).hex()}, license {terms}"
    return (line, DINOV3) if "dinov3" in config.name else (line,)


def leave_out(encoder: nn.Module, child: str) -> None:
    """Leaves a child module out of an encoder's state dict; `load_state_dict` does not miss it.

    A state dict that has any of it must have all.
    """
    encoder.register_state_dict_post_hook(_Forget(child))
    encoder.register_load_state_dict_pre_hook(_Keep(child))


class _Forget:
    """Drops the child's tensors from a state dict."""

    def __init__(self, child: str) -> None:
        self.child = child

    def __call__(self, _: nn.Module, state: dict[str, Any], prefix: str, __: object) -> None:
        for name in [name for name in state if name.startswith(f"{prefix}{self.child}.")]:
            del state[name]


class _Keep(_Forget):
    """Puts the child's own tensors where a state dict has none of it."""

    def __call__(self, encoder: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
        place = f"{prefix}{self.child}."
        if not any(name.startswith(place) for name in state):
            state.update(encoder.get_submodule(self.child).state_dict(prefix=place))
