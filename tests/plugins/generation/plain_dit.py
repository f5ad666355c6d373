"""LightningDiT, its loss and the flow of a Gaussian as plain formulas, from tensors by name."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy
import torch
from torch import Tensor


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / ((x * x).mean(-1, keepdim=True) + eps) ** 0.5 * weight


def linear(p: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return torch.einsum("...i,oi->...o", x, p[f"{name}.weight"]) + p[f"{name}.bias"]


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def turned(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Rotary positions of one head, (N, d): token by token, pair by pair."""
    quarter = x.shape[1] // 4
    out = x.clone()
    for row in range(grid[0]):
        for column in range(grid[1]):
            n = row * grid[1] + column
            for place, position in enumerate((row, column)):
                for i in range(quarter):
                    angle = position * 10_000 ** (-i / quarter)
                    first, second = place * quarter + i, 2 * quarter + place * quarter + i
                    a, b = x[n, first], x[n, second]
                    out[n, first] = a * math.cos(angle) - b * math.sin(angle)
                    out[n, second] = b * math.cos(angle) + a * math.sin(angle)
    return out


def sincos(position: float, width: int) -> list[float]:
    half = width // 2
    angles = [position * 10_000 ** (-i / half) for i in range(half)]
    return [math.cos(a) for a in angles] + [math.sin(a) for a in angles]


def transformer(
    p: Mapping[str, Tensor], x: Tensor, t: Tensor, label: Tensor, patch: int, heads: int
) -> Tensor:
    """The output for latents (B, d, h, w), row by row; `p` holds the network's parameters in float64."""
    rows = []
    depth = 1 + max(int(name.split(".")[1]) for name in p if name.startswith("block."))
    for x_, t_, label_ in zip(x, t, label, strict=True):
        d, h, w = x_.shape
        grid = (h // patch, w // patch)
        tokens = torch.stack(
            [
                x_[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].reshape(-1)
                for r in range(grid[0])
                for c in range(grid[1])
            ]
        )
        width = p["patch_embed.weight"].shape[0]
        places = [
            [*sincos(r, width // 2), *sincos(c, width // 2)] for r in range(grid[0]) for c in range(grid[1])
        ]
        wave = torch.tensor(sincos(float(t_) * 1000, 256), dtype=x.dtype)
        time = linear(p, "time_embed.linear2", silu(linear(p, "time_embed.linear1", wave)))
        condition = time + p["class_embed.weight"][label_]
        y = linear(p, "patch_embed", tokens) + torch.tensor(places, dtype=x.dtype)
        for i in range(depth):
            y = block(p, f"block.{i}", y, condition, grid, heads)
        shift, scale = linear(p, "final.modulation", silu(condition)).chunk(2)
        y = linear(p, "final.linear", rms(y, p["final.norm.weight"], 1e-6) * (1 + scale) + shift)
        image = torch.zeros_like(x_)
        for n, token in enumerate(y):
            r, c = divmod(n, grid[1])
            image[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch] = token.view(d, patch, patch)
        rows.append(image)
    return torch.stack(rows)


def block(
    p: Mapping[str, Tensor], name: str, x: Tensor, condition: Tensor, grid: tuple[int, int], heads: int
) -> Tensor:
    shift1, scale1, gate1, shift2, scale2, gate2 = linear(p, f"{name}.modulation", silu(condition)).chunk(6)
    y = rms(x, p[f"{name}.norm1.weight"], 1e-6) * (1 + scale1) + shift1
    q, k, v = linear(p, f"{name}.attn.qkv", y).chunk(3, -1)
    size = x.shape[1] // heads
    parts = []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        q_ = turned(rms(q[:, own], p[f"{name}.attn.q_norm.weight"], 1e-5), grid)
        k_ = turned(rms(k[:, own], p[f"{name}.attn.k_norm.weight"], 1e-5), grid)
        parts.append(torch.softmax(q_ @ k_.T / size**0.5, -1) @ v[:, own])
    x = x + gate1 * linear(p, f"{name}.attn.proj", torch.cat(parts, -1))
    y = rms(x, p[f"{name}.norm2.weight"], 1e-6) * (1 + scale2) + shift2
    hidden = silu(linear(p, f"{name}.mlp.w1", y)) * linear(p, f"{name}.mlp.w2", y)
    return x + gate2 * linear(p, f"{name}.mlp.w3", hidden)


class Gaussian:
    """The flow from noise to data of independent normal numbers: its velocity and its points.

    x_t = t x + (1 - t) e is normal of mean t m and variance s_t^2 = t^2 s^2 + (1 - t)^2, so the map from
    noise to x_t is e -> t m + s_t e, and the velocity its derivative.
    """

    def __init__(self, mean: numpy.ndarray, deviation: numpy.ndarray) -> None:
        self.mean, self.deviation = mean, deviation

    def scale(self, t: float | numpy.ndarray) -> numpy.ndarray:
        return numpy.sqrt(t**2 * self.deviation**2 + (1 - t) ** 2)

    def point(self, noise: numpy.ndarray, t: float) -> numpy.ndarray:
        return t * self.mean + self.scale(t) * noise

    def velocity(self, x: numpy.ndarray, t: float | numpy.ndarray) -> numpy.ndarray:
        slope = (t * self.deviation**2 - (1 - t)) / self.scale(t)
        return self.mean + slope / self.scale(t) * (x - t * self.mean)
