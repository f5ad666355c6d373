"""Tensors that encoder, bottleneck, decoder and objectives exchange.

All classes are frozen, keyword-only dataclasses, registered as pytrees: cut points, sharding hooks and
`torch.export` see the tensors inside them.

Shapes: B rows, C crops of a set, N patches (h * w, row-major), D encoder width, d latent channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from vtp_core.math.moments import Moments


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Tokens of one crop set.

    Attributes:
        patches: (B, C, N, D).
        grid: Patch rows and columns, (h, w) with h * w == N.
        cls: (B, C, D), or None if the encoder has no class token.
        layers: Output of the tapped encoder blocks, block index -> (B, C, N, D).
    """

    patches: Tensor
    grid: tuple[int, int]
    cls: Tensor | None = None
    layers: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Statistics of a forward pass, for `after_step` and `calibrate`.

    The core adds `sums` and merges `moments` over calls, chunks and ranks, and joins `rows`, a sample: the
    first `Bottleneck.sample_rows` global rows of each call, the same at any world size.

    Attributes:
        sums: Detached tensors of a fixed shape each.
        rows: Detached tensors, the rows of the batch first.
        moments: Moments of vectors.
    """

    sums: Mapping[str, Tensor] = field(default_factory=dict)
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    moments: Mapping[str, Moments] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Features:
    """The encoder's output for a view.

    Attributes:
        crops: Crop set name -> its tokens.
        seeds: (B,) int64 in a training step: one seed a row for `row_randn` and `row_rand`, which makes a
            bottleneck's noise the same at any world size and in any row chunks. None elsewhere.
    """

    crops: Mapping[str, Tokens]
    seeds: Tensor | None = None

    def __getitem__(self, name: str) -> Tokens:
        return self.crops[name]

    @property
    def cls(self) -> Tensor:
        """Class tokens of the global crops, (B, C, D)."""
        cls = self.crops["global"].cls
        if cls is None:
            raise ValueError("this encoder has no class token (has_cls is False)")
        return cls

    @property
    def patches(self) -> Tensor:
        """Patch tokens of the global crops, (B, C, N, D)."""
        return self.crops["global"].patches


@dataclass(frozen=True, kw_only=True)
class Latent:
    """The bottleneck's output.

    Attributes:
        crops: Crop set name -> tokens of width d.
        codes: Crop set name -> indices (B, C, Q, h, w) int64 of a discrete bottleneck, else None.
        aux: The bottleneck's own loss terms, scalars, weighted by its configuration; the core adds them
            to the loss once per tokenize call.
        tally: Statistics for `Bottleneck.after_step`.
        report: Scalars to log.
        logvar: Crop set name -> log variance (B, C, N, d) of a variational bottleneck, else None.
    """

    crops: Mapping[str, Tokens]
    codes: Mapping[str, Tensor] | None = None
    aux: Mapping[str, Tensor] = field(default_factory=dict)
    tally: Tally | None = None
    report: Mapping[str, Tensor] = field(default_factory=dict)
    logvar: Mapping[str, Tensor] | None = None

    @classmethod
    def of_map(cls, z: Tensor) -> Latent:
        """A latent map (B, d, h, w), such as a cached one, as the latent of one global crop."""
        height, width = z.shape[-2:]
        patches = z.flatten(2).transpose(1, 2).unsqueeze(1)
        return cls(crops={"global": Tokens(patches=patches, grid=(height, width))})

    def __getitem__(self, name: str) -> Tokens:
        return self.crops[name]

    @property
    def z(self) -> Tensor:
        """Latent map of the first global crop, (B, d, h, w)."""
        tokens = self.crops["global"]
        height, width = tokens.grid
        z: Tensor = tokens.patches[:, 0].transpose(1, 2).unflatten(2, (height, width))
        return z


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """The decoder's output.

    Attributes:
        image: (B, 3, H, W) in the decoder's `value_range`.
        latent: The latent that was decoded.
    """

    image: Tensor
    latent: Latent


@dataclass(frozen=True, kw_only=True)
class Losses:
    """An objective's losses and logged values.

    Attributes:
        terms: Scalars to minimise, unweighted; the mean over ranks of each is its global value.
        report: Scalars that are only logged.
        tally: Statistics for the objective's `after_step`.
    """

    terms: Mapping[str, Tensor]
    report: Mapping[str, Tensor] = field(default_factory=dict)
    tally: Tally | None = None

    def total(self) -> Tensor:
        """Sum of the terms, a scalar."""
        return torch.stack([term.reshape(()) for term in self.terms.values()]).sum()


def _flatten_tokens(tokens: Tokens) -> tuple[list[Any], tuple[int, int]]:
    return [tokens.patches, tokens.cls, dict(tokens.layers)], tokens.grid


def _unflatten_tokens(values: Iterable[Any], grid: tuple[int, int]) -> Tokens:
    patches, cls, layers = values
    return Tokens(patches=patches, cls=cls, layers=layers, grid=grid)


def _flatten_tokens_with_keys(tokens: Tokens) -> tuple[list[tuple[Any, Any]], tuple[int, int]]:
    values, grid = _flatten_tokens(tokens)
    keys = [_pytree.GetAttrKey(name) for name in ("patches", "cls", "layers")]
    return list(zip(keys, values, strict=True)), grid


# The grid says how the tensors are laid out, so it belongs to the tree's structure, not to its leaves.
_pytree.register_pytree_node(
    Tokens, _flatten_tokens, _unflatten_tokens, flatten_with_keys_fn=_flatten_tokens_with_keys
)
for _class in (Tally, Features, Latent, Reconstruction, Losses):
    _pytree.register_dataclass(_class)
