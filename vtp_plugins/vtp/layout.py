"""The published names of a tokenizer's tensors, as views into the live modules."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vtp_core.tokenizer import Tokenizer
from vtp_plugins.clip.open_clip import named_tensors
from vtp_plugins.clip.text import TextTower
from vtp_plugins.vit.rope import AxialRope
from vtp_plugins.vtp.options import ROPE_BASE

PERIODS = ("trunk.rope_embed.periods", "pixel_decoder.rope_embed.periods")
"""Buffers that the published model keeps in bfloat16."""


def published_tensors(tokenizer: Tokenizer, *, scalar: bool) -> dict[str, Tensor]:
    """Published name -> tensor in its published shape; writing into one changes the tokenizer.

    Only rotary periods that the modules don't keep are tensors of their own.

    Args:
        tokenizer: One whose parts fit (`vtp_plugins.vtp.fit`).
        scalar: Whether scale and bias of the scores have shape () instead of (1,).
    """
    found = dict(_vit("trunk", tokenizer.encoder))
    found |= {
        f"trunk.feature_bottleneck.{name.removeprefix('proj.')}": tensor
        for name, tensor in tokenizer.bottleneck.state_dict().items()
    }
    if tokenizer.decoder is not None:
        found |= dict(_vit("pixel_decoder", tokenizer.decoder))
    if "embed_text" in tokenizer.exports:
        tower = tokenizer.exports["embed_text"]
        assert isinstance(tower, TextTower)
        found |= dict(named_tensors(tower, "text_transformer"))
        head, scale = (tokenizer.exports[name].state_dict() for name in ("embed_image", "logit_scale"))
        found["visual_proj.weight"] = head["projection.weight"]
        shape = () if scalar else (1,)
        found["logit_scale"] = scale["logit_scale"].view(shape)
        bias = getattr(tokenizer, "logit_bias", None)
        if isinstance(bias, nn.Parameter):
            found["logit_bias"] = bias.detach().view(shape)
    return found


def drawn_periods(head_width: int, device: torch.device) -> Tensor:
    """The published rotary periods, (head_width / 4,) bfloat16."""
    rope = AxialRope(head_width, base=ROPE_BASE, dtype="bfloat16", saved=True)
    assert rope.periods is not None
    return rope.periods.to(device)


def _vit(prefix: str, network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in network.state_dict().items():
        own, _, rest = name.partition(".")
        yield f"{prefix}.{f'blocks.{rest}' if own == 'block' else name}", tensor
    rope = network.get_submodule("rope_embed")
    assert isinstance(rope, AxialRope)
    if rope.periods is None:
        device = next(network.parameters()).device
        yield f"{prefix}.rope_embed.periods", drawn_periods(rope.head_width, device)
