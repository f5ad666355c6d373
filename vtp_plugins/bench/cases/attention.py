"""Self-attention of vision transformers: `vtp_core.ops.vit_attention` against what torch offers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vtp_core.ops import AttentionChoice, AttentionKernel, Rope, vit_attention
from vtp_plugins.bench.case import BenchCase
from vtp_plugins.bench.config import BenchOptions
from vtp_plugins.bench.gpu_limits import attention_limit, sheet_of
from vtp_plugins.bench.peers.attention import dense_peers, packed_peers
from vtp_plugins.bench.peers.ours import usable
from vtp_plugins.bench.peers.peer import Call, gather
from vtp_plugins.bench.sizes import sizes

SHAPES = (
    "forward:2x12x64x64",
    "forward:2x12x256x64",
    "forward:2x12x261x64",
    "forward:2x12x1024x64",
    "backward:2x12x256x64",
    "backward:2x12x1024x64",
    "both+norm+rope:2x12x256x64",
    "both:12x64:2x257+8x37",
    "both:12x64:2x261+8x41",
)
FORMAT = (
    "PASS:BATCHxHEADSxTOKENSxWIDTH, or packed PASS:HEADSxWIDTH:COUNTxTOKENS+COUNTxTOKENS; "
    "PASS is forward, backward or both, with +norm and +rope"
)

FLOP = {"forward": 4, "backward": 10, "both": 14}
"""Operations for each pair of tokens and channel: two products forward, five backward."""

CLOSE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Layout:
    """A parsed shape.

    Attributes:
        timed: ``"forward"``, ``"backward"`` or ``"both"``.
        norm: With query and key norm.
        rope: With rotation.
        batch: Sequences of the dense layout; 0: packed.
        heads: Attention heads.
        lengths: Tokens of each sequence.
        width: Channels of a head.
    """

    timed: str
    norm: bool
    rope: bool
    batch: int
    heads: int
    lengths: tuple[int, ...]
    width: int


def read(shape: str) -> Layout:
    """The parts of a shape.

    Raises:
        ValueError: It is not in the format.
    """
    match = re.fullmatch(r"(forward|backward|both)(\+norm)?(\+rope)?:(.+)", shape)
    if match is None:
        raise ValueError("no pass in front")
    timed, norm, rope, numbers = match.groups()
    packed = re.fullmatch(r"([^:]+):([^:]+)", numbers)
    if packed is None:
        batch, heads, tokens, width = sizes(numbers, 4)
        return Layout(timed, bool(norm), bool(rope), batch, heads, (tokens,) * batch, width)
    heads, width = sizes(packed[1], 2)
    runs = [sizes(run, 2) for run in packed[2].split("+")]
    lengths = tuple(tokens for count, tokens in runs for _ in range(count))
    return Layout(timed, bool(norm), bool(rope), 0, heads, lengths, width)


def build(shape: str, options: BenchOptions) -> BenchCase:
    """Normal queries, keys and values as views of one projection, as a transformer has them."""
    asked = read(shape)
    if asked.rope and asked.width % 2:
        raise ValueError("a rotation needs an even width")
    dtype = getattr(torch, options.precision)
    torch.manual_seed(0)
    tokens = sum(asked.lengths)
    projected = torch.randn(tokens, 3, asked.heads, asked.width).to(options.device, dtype)
    norm = None
    if asked.norm:
        q_norm, k_norm = torch.rand(2, asked.width, device=options.device, dtype=dtype) + 0.5
        norm = (q_norm, k_norm)
    rope = _rope(asked, options) if asked.rope else None
    # Leaves of their own: the time of a backward ends at q, k and v.
    q, k, v = (x.detach().requires_grad_(asked.timed != "forward") for x in _views(projected, asked))
    offsets = torch.tensor([0, *asked.lengths], device=options.device).cumsum(0) if not asked.batch else None

    def ours(choice: AttentionChoice | None = None) -> Tensor:
        return vit_attention(
            q,
            k,
            v,
            q_norm=norm[0] if norm else None,
            k_norm=norm[1] if norm else None,
            rope=rope,
            cu_seqlens=offsets,
            implementation=choice,
        )

    forwards: dict[str, Call] = {"vtp": ours}
    if options.device != "cpu":
        for kernel in usable(AttentionKernel, options.device):
            forwards[f"vtp, {kernel.name}"] = partial(ours, AttentionChoice((kernel,)))
    skipped: dict[str, str] = {}
    if not asked.batch:
        forwards["vtp, one call a length"] = lambda: _ours_by_length(q, k, v, asked, norm, rope)
    if options.peers and asked.batch:
        found = dense_peers(q, k, v, norm, rope, asked.timed != "forward")
        calls, skipped = gather(found)
        forwards |= calls
    elif options.peers:
        if asked.norm or asked.rope:
            raise ValueError("packed peers take no norm or rotation; use --no-peers")
        calls, skipped = gather(packed_peers(q, k, v, asked.lengths))
        forwards |= calls
    pairs = float(asked.heads * sum(length * length for length in asked.lengths))
    flop = FLOP[asked.timed] * asked.width * pairs
    return BenchCase(
        name="attention",
        question="How fast is attention at the lengths of vision transformers, beside torch's own?",
        shape=shape,
        rows=tokens,
        unit="tokens",
        variants={name: _timed(call, (q, k, v), asked.timed) for name, call in forwards.items()},
        check=lambda result, expected: _check(result, expected, CLOSE[dtype]),
        flop=flop,
        peak=options.precision,
        skipped=skipped,
        limit=attention_limit(
            sheet_of(options.device), flop, pairs, 4.0 * projected.nbytes / 3, options.precision
        ),
    )


def _views(projected: Tensor, asked: Layout) -> tuple[Tensor, Tensor, Tensor]:
    if not asked.batch:
        q, k, v = projected.unbind(1)
        return q, k, v
    dense = projected.unflatten(0, (asked.batch, asked.lengths[0])).permute(2, 0, 3, 1, 4)
    q, k, v = dense.unbind(0)
    return q, k, v


def _rope(asked: Layout, options: BenchOptions) -> Rope:
    rows = asked.lengths[0] if asked.batch else sum(asked.lengths)
    angles = torch.rand(rows, asked.width // 2, device=options.device) * 6.28
    return Rope(torch.cat((angles.cos(),) * 2, 1), torch.cat((angles.sin(),) * 2, 1))


def _ours_by_length(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    asked: Layout,
    norm: tuple[Tensor, Tensor] | None,
    rope: Rope | None,
) -> Tensor:
    """The parts of the packed call, each by itself."""
    parts, start = [], 0
    for length in dict.fromkeys(asked.lengths):
        rows = asked.lengths.count(length) * length
        offsets = torch.arange(0, rows + 1, length, device=q.device)
        piece = slice(start, start + rows)
        parts.append(
            vit_attention(
                q[piece],
                k[piece],
                v[piece],
                q_norm=norm[0] if norm else None,
                k_norm=norm[1] if norm else None,
                rope=Rope(rope.cos[piece], rope.sin[piece]) if rope else None,
                cu_seqlens=offsets,
            )
        )
        start += rows
    return torch.cat(parts)


def _timed(call: Call, leaves: tuple[Tensor, ...], timed: str) -> Callable[[], object]:
    """The call, its gradients, or both; each returns what is compared."""

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            out = call()
        assert isinstance(out, Tensor)
        return (out,)

    def both() -> tuple[Tensor, ...]:
        out = call()
        assert isinstance(out, Tensor)
        return torch.autograd.grad(out, leaves, torch.ones_like(out))

    if timed != "backward":
        return forward if timed == "forward" else both
    out = call()
    assert isinstance(out, Tensor)
    ones = torch.ones_like(out)
    return lambda: torch.autograd.grad(out, leaves, ones, retain_graph=True)


def _check(found: object, expected: object, close: float) -> str | None:
    assert isinstance(found, tuple) and isinstance(expected, tuple)
    for result, reference in zip(found, expected, strict=True):
        if result.shape != reference.shape:
            return f"shape {tuple(result.shape)} instead of {tuple(reference.shape)}"
        error = ((result - reference).double().norm() / reference.double().norm()).item()
        if error > close:
            return f"relative error {error:.1e}"
    return None
