"""The transformer on codes as plain formulas in float64: one row, one position and one head at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def losses(p: Weights, codes: Tensor, label: Tensor, heads: int) -> Tensor:
    """Negative log-likelihoods (B, Q, h, w) of codes (B, Q, h, w) under classes (B,)."""
    _, codebooks, rows, columns = codes.shape
    out = torch.zeros(codes.shape, dtype=torch.float64)
    for b, own in enumerate(codes.flatten(2).transpose(1, 2).tolist()):
        for n in range(rows * columns):
            x = output(p, own[:n], int(label[b]), (rows, columns), heads)
            for q in range(codebooks):
                logits = head(p, x, own[n][:q])
                out[b, q, n // columns, n % columns] = logits.logsumexp(0) - logits[own[n][q]]
    return out


def output(
    p: Weights, before: Sequence[Sequence[int]], label: int, grid: tuple[int, int], heads: int
) -> Tensor:
    """(D,) for the next position, from the codes of the positions before it: no mask, no cache."""
    tokens = [p["class_embed.weight"][label]]
    tokens += [sum_of(p[f"code_embed.{q}.weight"][code] for q, code in enumerate(codes)) for codes in before]
    width = len(tokens[0])
    tokens = [token + wave(n, grid, width) for n, token in enumerate(tokens)]
    depth = 1 + max(int(name.split(".")[1]) for name in p if name.startswith("block."))
    for i in range(depth):
        tokens = block({k.removeprefix(f"block.{i}."): v for k, v in p.items()}, tokens, grid, heads)
    return tokens[-1]


def head(p: Weights, x: Tensor, before: Sequence[int]) -> Tensor:
    """(K,) logits of the codebook after those whose codes are given."""
    own = {k.removeprefix(f"head.{len(before)}."): v for k, v in p.items()}
    for q, code in enumerate(before):
        x = x + own[f"embed.{q}.weight"][code]
    x = x + swiglu(own, norm(x, own["norm1.weight"]))
    return own["out.weight"] @ norm(x, own["norm2.weight"]) + own["out.bias"]


def block(p: Weights, tokens: list[Tensor], grid: tuple[int, int], heads: int) -> list[Tensor]:
    width = len(tokens[0]) // heads
    parts = [p["attn.qkv.weight"] @ norm(x, p["norm1.weight"]) + p["attn.qkv.bias"] for x in tokens]
    outs: list[Tensor] = []
    for n in range(len(tokens)):
        joined = []
        for h in range(heads):
            place = slice(h * width, (h + 1) * width)
            q, k, v = ([part.chunk(3)[kind][place] for part in parts[: n + 1]] for kind in range(3))
            query = turned(norm(q[n], p["attn.q_norm.weight"]), n - 1, grid)
            keys = [turned(norm(key, p["attn.k_norm.weight"]), m - 1, grid) for m, key in enumerate(k)]
            weights = torch.stack([(query * key).sum() / math.sqrt(width) for key in keys]).exp()
            joined.append(sum_of(w * value for w, value in zip(weights, v, strict=True)) / weights.sum())
        outs.append(tokens[n] + p["attn.proj.weight"] @ torch.cat(joined) + p["attn.proj.bias"])
    return [x + swiglu(p, norm(x, p["norm2.weight"])) for x in outs]


def swiglu(p: Weights, x: Tensor) -> Tensor:
    gate = p["mlp.w1.weight"] @ x + p["mlp.w1.bias"]
    up = p["mlp.w2.weight"] @ x + p["mlp.w2.bias"]
    return p["mlp.w3.weight"] @ (gate / (1 + (-gate).exp()) * up) + p["mlp.w3.bias"]


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean() + 1e-5).sqrt() * weight


def turned(x: Tensor, position: int, grid: tuple[int, int]) -> Tensor:
    """Rotation of the pairs (i, i + d / 2), a quarter of the channels by the row, a quarter by the column."""
    if position < 0:
        return x
    quarter = len(x) // 4
    places = (position // grid[1], position % grid[1])
    angles = [place * 10_000.0 ** (-i / quarter) for place in places for i in range(quarter)]
    factor = torch.polar(torch.ones(len(angles), dtype=torch.float64), torch.tensor(angles).double())
    pairs = torch.complex(*x.chunk(2)) * factor
    return torch.cat((pairs.real, pairs.imag))


def wave(position: int, grid: tuple[int, int], width: int) -> Tensor:
    """Cosines and sines of the row, then of the column."""
    half, found = width // 2, []
    for place in (position // grid[1], position % grid[1]):
        angles = [place * math.exp(-math.log(10_000) * i / (half // 2)) for i in range(half // 2)]
        found += [math.cos(angle) for angle in angles] + [math.sin(angle) for angle in angles]
    return torch.tensor(found, dtype=torch.float64)


def sum_of(parts: object) -> Tensor:
    return torch.stack(list(parts)).sum(0)  # type: ignore[call-overload]
