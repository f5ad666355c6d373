"""Attention in torch: SDPA, plain products, flex_attention, nested tensors; norm and rotation come before."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vtp_core.ops import Rope, attention_choice, vit_attention
from vtp_plugins.bench.peers.peer import Call, Peer


def dense_peers(
    q: Tensor, k: Tensor, v: Tensor, norm: tuple[Tensor, Tensor] | None, rope: Rope | None, backward: bool
) -> Iterator[Peer]:
    """Peers for (B, H, N, d).

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        norm: Weights of the query and key norm, or None.
        rope: Rotary tables, or None.
        backward: Whether a gradient is to be timed.
    """
    q_norm, k_norm = norm or (None, None)

    def by(implementation: str) -> Callable[[], Call]:
        choice = attention_choice(implementation)
        return lambda: (
            lambda: vit_attention(q, k, v, q_norm=q_norm, k_norm=k_norm, rope=rope, implementation=choice)
        )

    yield Peer(name="SDPA", build=by("sdpa"))
    yield Peer(name="matmul", build=by("matmul"))

    def flex() -> Call:
        from torch.nn.attention.flex_attention import flex_attention

        compiled = torch.compile(flex_attention)
        return lambda: compiled(q, k, v)

    refuses = None
    if norm is not None or rope is not None:
        refuses = "plain attention only"
    elif backward and q.device.type == "cpu":
        refuses = "no backward on a CPU"
    yield Peer(name="flex_attention, compiled", build=flex, refuses=refuses)


def packed_peers(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Iterator[Peer]:
    """Peers for packed sequences (T, H, d).

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        lengths: Tokens of each sequence, those of one length side by side.
    """
    yield Peer(name="SDPA, one call a length", build=lambda: _by_length(q, k, v, lengths))
    yield Peer(name="SDPA, padded with a mask", build=lambda: _padded(q, k, v, lengths))
    yield Peer(name="SDPA, jagged NestedTensor", build=lambda: _jagged(q, k, v, lengths))


def _by_length(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Call:
    def call() -> Tensor:
        parts, start = [], 0
        for length in dict.fromkeys(lengths):
            count = list(lengths).count(length)
            stop = start + count * length
            rows = slice(start, stop)
            qs, ks, vs = (x[rows].unflatten(0, (count, length)).transpose(1, 2) for x in (q, k, v))
            parts.append(F.scaled_dot_product_attention(qs, ks, vs).transpose(1, 2).flatten(0, 1))
            start = stop
        return torch.cat(parts)

    return call


def _padded(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Call:
    longest = max(lengths)
    places = torch.cat([row * longest + torch.arange(length) for row, length in enumerate(lengths)])
    places = places.to(q.device)
    inside = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    mask = inside[:, None, None, :].to(q.device)

    def call() -> Tensor:
        def pad(x: Tensor) -> Tensor:
            rows = x.new_zeros(len(lengths) * longest, *x.shape[1:]).index_copy(0, places, x)
            return rows.unflatten(0, (len(lengths), longest)).transpose(1, 2)

        out = F.scaled_dot_product_attention(pad(q), pad(k), pad(v), attn_mask=mask)
        return out.transpose(1, 2).flatten(0, 1)[places]

    return call


def _jagged(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Call:
    offsets = torch.tensor([0, *lengths]).cumsum(0).to(q.device)

    def call() -> Tensor:
        qs, ks, vs = (
            torch.nested.nested_tensor_from_jagged(x.contiguous(), offsets).transpose(1, 2) for x in (q, k, v)
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors is in prototype")
            return F.scaled_dot_product_attention(qs, ks, vs).transpose(1, 2).values()

    return call
