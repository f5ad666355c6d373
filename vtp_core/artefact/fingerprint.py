"""A tokenizer's fingerprint: whether two tokenizers make the same latents. Imports no torch.

It hashes what latents depend on: weights and tables of encoder and bottleneck, and the latents' statistics.
The decoder is not in it, so that one that was tuned further reads the same latents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vtp_core.config import Table
from vtp_core.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vtp_core.artefact.config import ArtefactConfig
    from vtp_core.tokenizer import Tokenizer

NETWORKS, STATISTICS = 16, 8
"""Hexadecimal digits of the two parts."""


class TokenizerName(Table):
    """What files that belong to a tokenizer's latents say of it."""

    name: str
    """Its recipe, or the name by which it was given."""
    fingerprint: str
    """As of `fingerprint`."""

    def __str__(self) -> str:
        return f"{self.name or 'unnamed'} ({self.fingerprint})"


def fingerprint(tokenizer: Tokenizer, stored: Mapping[str, Tensor] | None = None) -> str:
    """The fingerprint of a tokenizer.

    Args:
        tokenizer: Its weights are whole tensors.
        stored: ``encoder.*`` and ``bottleneck.*`` as they will be read again, where storage rounds them.

    Returns:
        16 hexadecimal digits of the networks; with statistics a dash and 8 digits of these.
    """
    networks = networks_fingerprint(tokenizer.encoder, tokenizer.bottleneck, stored)
    config = tokenizer.config
    return networks if config is None else with_statistics(networks, config)


def name_of(tokenizer: Tokenizer, name: str = "") -> TokenizerName:
    """The name and fingerprint of a tokenizer, as its artefact states it; one of an older version is hashed.

    Args:
        tokenizer: As it was loaded.
        name: How it is called; by default the name of its recipe.
    """
    config = tokenizer.config
    known = None if config is None else config.fingerprint
    return TokenizerName(
        name=name or ("" if config is None else config.recipe), fingerprint=known or fingerprint(tokenizer)
    )


def with_statistics(networks: str, config: ArtefactConfig) -> str:
    """The fingerprint of networks with this hash and the statistics of a config."""
    if config.latents_mean is None:
        return networks
    numbers = [config.latents_mean, config.latents_std, config.scaling_factor]
    return f"{networks}-{hashlib.sha256(json.dumps(numbers).encode()).hexdigest()[:STATISTICS]}"


def networks_fingerprint(
    encoder: nn.Module, bottleneck: nn.Module, stored: Mapping[str, Tensor] | None = None
) -> str:
    """The first part: of weights and tables of encoder and bottleneck, on any device."""
    digest = hashlib.sha256()
    for part, module in {"encoder": encoder, "bottleneck": bottleneck}.items():
        digest.update(json.dumps([part, _facts(module)], sort_keys=True).encode())
        # Also what a module keeps out of its state dict, such as a frozen network of another package.
        tensors = {**dict(module.named_parameters()), **module.state_dict()}
        for name, tensor in sorted(tensors.items()):
            value = tensor if stored is None else stored.get(f"{part}.{name}", tensor)
            whole = value.detach().to("cpu", tensor.dtype).contiguous()
            digest.update(json.dumps([name, str(whole.dtype), list(whole.shape)]).encode())
            digest.update(_bytes(whole))
    return digest.hexdigest()[:NETWORKS]


def same_latents(one: str, other: str, *, normalized: bool = False) -> bool:
    """Whether latents of one tokenizer are latents of the other.

    Args:
        one: Fingerprint.
        other: Fingerprint.
        normalized: Whether statistics must agree too.
    """
    return one == other if normalized else one[:NETWORKS] == other[:NETWORKS]


def require_same(what: str, of: TokenizerName, own: TokenizerName, *, normalized: bool = False) -> None:
    """Refuses what belongs to another tokenizer's latents.

    Args:
        what: Its name in the message.
        of: The tokenizer that it was made with.
        own: The tokenizer that is to use it.
        normalized: Whether statistics must agree too.

    Raises:
        CheckpointError: They make different latents.
    """
    if not same_latents(of.fingerprint, own.fingerprint, normalized=normalized):
        only = same_latents(of.fingerprint, own.fingerprint)
        how = "has other latent statistics" if only else "makes other latents"
        raise CheckpointError(
            f"{what} belongs to the tokenizer {of}; {own} {how}. Use the one that it was made with, or make "
            "it again"
        )


def _facts(module: nn.Module) -> dict[str, Any]:
    """The settings of a network that its weights don't show, without what has its default.

    So a key that a later version adds, with a default that changes nothing, leaves the fingerprint as it is.
    """
    table = getattr(module, "table", None)
    if table is None:
        return {"class": type(module).__name__}
    set_keys: dict[str, Any] = table.restored().model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return {**{key: value for key, value in set_keys.items() if key != "weights"}, "use": table.use}


def _bytes(tensor: Tensor) -> bytes:
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
