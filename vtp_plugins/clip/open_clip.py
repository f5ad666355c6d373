"""The text tower of open_clip's and OpenAI's CLIP: names of its tensors, and reading them into ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from vtp_core.errors import UsageError
from vtp_plugins.clip.text import TextTower
from vtp_plugins.pretrained.files import read_state

_LAYERS = {
    "norm1.": "ln_1.",
    "norm2.": "ln_2.",
    "qkv.": "attn.in_proj_",
    "proj.": "attn.out_proj.",
    "fc1.": "mlp.c_fc.",
    "fc2.": "mlp.c_proj.",
    "scale1": "ls_1.gamma",
    "scale2": "ls_2.gamma",
}
"""Ours -> open_clip's names within a block."""
_OTHERS = (
    "visual.",
    "logit_scale",
    "logit_bias",
    "attn_mask",
    "input_resolution",
    "context_length",
    "vocab_size",
)
"""Starts of names that are no weights of the text tower."""


def named_tensors(tower: TextTower, blocks: str = "transformer") -> Iterator[tuple[str, Tensor]]:
    """open_clip's names and the tower's tensors in open_clip's shapes; writing into one changes the tower.

    Args:
        tower: Ours.
        blocks: What precedes ``resblocks`` in the names.
    """
    for name, tensor in tower.state_dict().items():
        own, _, rest = name.partition(".")
        if own == "blocks":
            index, _, layer = rest.partition(".")
            ours = next(key for key in _LAYERS if layer.startswith(key))
            yield f"{blocks}.resblocks.{index}.{_LAYERS[ours]}{layer.removeprefix(ours)}", tensor
        elif own == "projection":
            # Without a bias it is a matrix that the features are multiplied by from the left.
            biased = tower.projection is not None and tower.projection.bias is not None
            yield (f"text_projection.{rest}", tensor) if biased else ("text_projection", tensor.T)
        else:
            names = {"positions": "positional_embedding", "norm": "ln_final"}
            yield name.replace(own, names.get(own, own), 1), tensor


@torch.no_grad()
def read_text_tower(tower: TextTower, file: Path) -> None:
    """Reads the text tower of an open_clip or OpenAI model into ours.

    Args:
        tower: Ours, of the same sizes.
        file: ``.safetensors``, or what ``torch.save`` wrote of a state dict; read without running code.

    Raises:
        UsageError: It can't be read, is no such model, or is of other sizes, which are named.
    """
    state = _text_state(read_state(file))
    own = dict(named_tensors(tower))
    if "token_embedding.weight" not in state or "positional_embedding" not in state:
        raise UsageError(f"{file}: has no text tower of open_clip; give the state dict of a whole CLIP model")
    missing, surplus = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [name for name in own if name in state and state[name].shape != own[name].shape]
    if missing or surplus or shapes:
        first = f"lacks {missing[0]}" if missing else f"has {surplus[0]} more" if surplus else ""
        first = first or f"{shapes[0]} is {tuple(state[shapes[0]].shape)}, not {tuple(own[shapes[0]].shape)}"
        raise UsageError(f"{file}: its text tower {_sizes(state)}; {first}: give the table its sizes")
    for name, tensor in own.items():
        tensor.copy_(state[name])


def _text_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the text tower, without what precedes their names."""
    bare = {name.removeprefix("module."): value for name, value in state.items()}
    if any(name.startswith("text.") for name in bare):
        bare = {name.removeprefix("text."): value for name, value in bare.items() if name.startswith("text.")}
    return {name: value for name, value in bare.items() if not name.startswith(_OTHERS)}


def _sizes(state: Mapping[str, Tensor]) -> str:
    """The keys of the table that would fit."""
    blocks = {match[1] for name in state if (match := re.match(r"transformer\.resblocks\.(\d+)\.", name))}
    tokens, width = state["token_embedding.weight"].shape
    matrix = state.get("text_projection", state.get("text_projection.weight"))
    matrix = matrix if matrix is None or "text_projection" in state else matrix.T
    embedding = width if matrix is None else matrix.shape[-1]
    context = state["positional_embedding"].shape[0]
    return (
        f"has width = {width}, depth = {len(blocks)}, context = {context}, vocabulary = {tokens}, "
        f"embedding = {embedding}"
    )
