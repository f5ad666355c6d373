"""The calls of a tokenizer as functions of one tensor, with the sizes that may vary.

Shapes: B rows, d latent channels, Q codebooks, T tokens a caption, h x w positions, E embedding width.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vtp_core.tokenizer import Tokenizer
from vtp_plugins.clip.text import TextTower

CALLS = ("encode", "decode", "decode_codes", "embed_image", "embed_text")
"""Names of all calls that are exported."""
SIZES = (2, 3, 5)
"""Batch, rows and columns of positions that programs are traced with; unequal, so that none is confused."""
SMALLEST = 2
"""Fewest rows and columns of positions that a traced program is made for."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call.

    Attributes:
        name: What it does; the stem of its file.
        module: Takes one tensor, returns a tuple of tensors.
        input: Name of the tensor that it takes.
        outputs: Names of the tensors that it returns.
        step: Pixels or positions of the input by which height and width grow; 0: only the batch varies.
        draw: Batch, rows and columns of positions -> a random input.
    """

    name: str
    module: nn.Module
    input: str
    outputs: tuple[str, ...]
    step: int
    draw: Callable[[int, int, int], Tensor]


class _Encode(nn.Module):
    """Pixels (B, 3, H, W) to latent (B, d, h, w), its log variance and codes (B, Q, h, w), if it has them."""

    def __init__(self, tokenizer: Tokenizer, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.tokenizer, self.outputs = tokenizer, outputs

    def forward(self, value: Tensor) -> tuple[Tensor, ...]:
        """All outputs, in order."""
        encoded = self.tokenizer.encode(value)
        found = {"latent": encoded.latent, "logvar": encoded.latent_dist.logvar, "codes": encoded.indices}
        tensors = [found[name] for name in self.outputs]
        return tuple(tensor for tensor in tensors if tensor is not None)


class _Decode(nn.Module):
    """A latent (B, d, h, w) to pixels (B, 3, H, W)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, value: Tensor) -> tuple[Tensor, ...]:
        """The pixels."""
        return (self.tokenizer.decode(value).sample,)


class _DecodeCodes(_Decode):
    """Codes (B, Q, h, w) to pixels (B, 3, H, W)."""

    def forward(self, value: Tensor) -> tuple[Tensor, ...]:
        """The pixels."""
        return (self.tokenizer.decode_indices(value).sample,)


class _EmbedImage(_Decode):
    """Pixels (B, 3, H, W) to unit vectors (B, E)."""

    def forward(self, value: Tensor) -> tuple[Tensor, ...]:
        """The embedding."""
        return (self.tokenizer.embed_image(value),)


class _EmbedText(_Decode):
    """Token ids (B, T) to unit vectors (B, E)."""

    def forward(self, value: Tensor) -> tuple[Tensor, ...]:
        """The embedding."""
        return (self.tokenizer.exports["embed_text"](value),)


def calls_of(tokenizer: Tokenizer) -> list[Call]:
    """What the tokenizer can do; warns of what is left out.

    Args:
        tokenizer: In evaluation mode on the CPU.
    """
    able, patch, channels = tokenizer.capabilities, tokenizer.encoder.patch, tokenizer.latent_channels
    sizes, only = tokenizer.bottleneck.codebook_sizes, tokenizer.encoder.only_size
    varies = only is None

    def pixels(batch: int, rows: int, columns: int) -> Tensor:
        height, width = only or (rows * patch, columns * patch)
        return torch.randn(batch, 3, height, width).clamp(-2, 2).to(tokenizer.dtype)

    def grid(rows: int, columns: int) -> tuple[int, int]:
        return (rows, columns) if only is None else tokenizer.encoder.grid(*only)

    def latent(batch: int, rows: int, columns: int) -> Tensor:
        return torch.randn(batch, channels, *grid(rows, columns), dtype=tokenizer.dtype)

    def codes(batch: int, rows: int, columns: int) -> Tensor:
        return torch.stack([torch.randint(size, (batch, *grid(rows, columns))) for size in sizes], 1)

    variational = not tokenizer.encode(pixels(1, *SIZES[1:])).latent_dist.deterministic
    outputs = ("latent", *(["logvar"] if variational else []), *(["codes"] if sizes else []))
    encode, step = _Encode(tokenizer, outputs), patch if varies else 0
    calls = [Call(name="encode", module=encode, input="pixels", outputs=outputs, step=step, draw=pixels)]

    def add(name: str, module: nn.Module, given: str, made: str, step: int, draw: _Draw) -> None:
        calls.append(Call(name=name, module=module, input=given, outputs=(made,), step=step, draw=draw))

    if "decode" in able:
        add("decode", _Decode(tokenizer), "latent", "pixels", int(varies), latent)
    if "decode" in able and sizes:
        add("decode_codes", _DecodeCodes(tokenizer), "codes", "pixels", int(varies), codes)
    if "embed_image" in able:
        add("embed_image", _EmbedImage(tokenizer), "pixels", "image_embeds", step, pixels)
    tower = tokenizer.exports["embed_text"] if "embed_text" in able else None
    if isinstance(tower, TextTower):
        context, vocabulary = tower.positions.shape[0], tower.token_embedding.num_embeddings

        def ids(batch: int, *_: int) -> Tensor:
            return torch.randint(vocabulary, (batch, context))

        add("embed_text", _EmbedText(tokenizer), "ids", "text_embeds", 0, ids)
    written = {call.name for call in calls} | {"codes", "class_tokens", "branches", "logit_scale"}
    if left := sorted(able - written):
        warnings.warn(f"left out, as it is no function of one tensor: {', '.join(left)}", stacklevel=2)
    return calls


_Draw = Callable[[int, int, int], Tensor]
