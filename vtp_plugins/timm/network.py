"""Builds a network of timm for a table, without its head."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from vtp_core.errors import UsageError
from vtp_plugins.pretrained.networks import timm_network
from vtp_plugins.timm.config import TimmConfig


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What an encoder needs to know of a network.

    Attributes:
        transformer: Whether it works on tokens of one grid; else on maps of several.
        widths: Channels of the outputs that can be tapped, in order; the last one's are the encoder's.
        native: Pixels a position of the last of them, at the network's own scale.
        reductions: Pixels a position of each output.
        size: (height, width) of the only images that it takes; None: any.
    """

    transformer: bool
    widths: tuple[int, ...]
    native: int
    reductions: tuple[int, ...]
    size: tuple[int, int] | None


def build_network(config: TimmConfig) -> tuple[nn.Module, Layout]:
    """The untrained network in evaluation mode, without head; only blocks that are trained take gradients.

    Raises:
        UsageError: timm can't build it, or the table asks for a norm, a patch or blocks that it lacks.
    """
    network: Any = _create(config)
    layout = _layout(network, config)
    # On lists of indices timm only leaves out what lies behind the last one.
    if hasattr(network, "prune_intermediate_layers"):
        network.prune_intermediate_layers([len(layout.widths) - 1], prune_norm=False, prune_head=True)
    if config.norm == "final" and isinstance(getattr(network, "norm", None), nn.Identity | None):
        raise UsageError(
            f'timm: {config.name} has no final norm of its tokens; set norm = "none" or "no_affine"'
        )
    network.requires_grad_(False).eval()
    blocks = network_blocks(network)
    if config.trainable > len(blocks):
        raise UsageError(
            f"timm: trainable = {config.trainable}, but {config.name} has {len(blocks)} blocks that can be "
            "told apart"
        )
    for block in blocks[len(blocks) - config.trainable :]:
        block.requires_grad_(True)
    return network, layout


def network_blocks(network: nn.Module) -> Sequence[nn.Module]:
    """Blocks of a transformer or stages of a convolutional network, in order; empty if timm names none."""
    for name in ("blocks", "stages"):
        blocks = getattr(network, name, None)
        if isinstance(blocks, nn.Sequential | nn.ModuleList):
            return list(blocks)
    layers = [getattr(network, f"layer{number}", None) for number in range(1, 5)]
    return [layer for layer in layers if isinstance(layer, nn.Module) and list(layer.parameters())]


def pixel_statistics(network: nn.Module) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of [0, 1] pixels that the network was trained with, a value a channel."""
    pretrained: Any = network.pretrained_cfg
    return pretrained["mean"], pretrained["std"]


def _create(config: TimmConfig) -> nn.Module:
    try:
        try:  # images of any size, where the positional scheme allows
            return timm_network(config.name, {"dynamic_img_size": True, **config.options})
        except TypeError:
            return timm_network(config.name, dict(config.options))
    except TypeError as error:
        raise UsageError(f"timm: {config.name} does not take these options ({error})") from None


def _layout(network: Any, config: TimmConfig) -> Layout:
    info: Any = network.feature_info
    maps: list[dict[str, Any]] = list(info) if isinstance(info, list) else info.get_dicts()
    reductions = tuple(int(each["reduction"]) for each in maps)
    widths = tuple(int(each["num_chs"]) for each in maps)
    transformer = "return_prefix_tokens" in inspect.signature(network.forward_intermediates).parameters
    if not transformer and config.patch is not None:
        if config.patch not in reductions:
            known = ", ".join(str(each) for each in dict.fromkeys(reductions))
            raise UsageError(f"timm: {config.name} has no map of reduction {config.patch}; it has {known}")
        last = max(place for place, reduction in enumerate(reductions) if reduction == config.patch)
        reductions, widths = reductions[: last + 1], widths[: last + 1]
    embed = getattr(network, "patch_embed", None)
    fixed = transformer and not getattr(network, "dynamic_img_size", False)
    size = tuple(embed.img_size) if fixed and embed is not None and embed.img_size else None
    return Layout(
        transformer=transformer, widths=widths, native=reductions[-1], reductions=reductions, size=size
    )
