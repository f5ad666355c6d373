"""Layers of UniTok: convolutions of ViTamin (arXiv 2404.02132), gated blocks, projections by attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtp_core.ops import vit_attention
from vtp_plugins.titok.layers import attend, dropped

EPS = 1e-6
"""Epsilon of norms, but those of the projections."""
PROJECTION_EPS = 1e-5
"""Epsilon of the projections' own norms."""


class MapNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Double(nn.Module):
    """Repeats each position in a square of four, then a 3 x 3 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', 2 h, 2 w)."""
        y: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y


class Halve(nn.Module):
    """Mean of 3 x 3 positions, every other one, then a 1 x 1 convolution where the channels change."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.expand = None if inputs == outputs else nn.Conv2d(inputs, outputs, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', h / 2, w / 2)."""
        y = F.avg_pool2d(x, kernel_size=3, stride=2, padding=1, count_include_pad=False)
        return y if self.expand is None else self.expand(y)


class ConvBlock(nn.Module):
    """Inverted bottleneck: 1 x 1, depthwise 3 x 3 and 1 x 1 convolutions behind a norm, added to the input.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the result; four times as many in between.
        halves: Whether the depthwise convolution has stride 2.
        doubles: Whether the map is enlarged before it.
    """

    def __init__(self, inputs: int, outputs: int, *, halves: bool = False, doubles: bool = False) -> None:
        super().__init__()
        inner = 4 * outputs
        self.shortcut: nn.Module | None = None
        if halves or doubles:
            self.shortcut = Halve(inputs, outputs) if halves else Double(inputs, outputs)
        self.pre_norm = MapNorm(inputs)
        self.conv1_1x1 = nn.Conv2d(inputs, inner, kernel_size=1)
        self.up = Double(inner, inner) if doubles else None
        self.conv2_kxk = nn.Conv2d(
            inner, inner, kernel_size=3, stride=2 if halves else 1, padding=1, groups=inner
        )
        self.conv3_1x1 = nn.Conv2d(inner, outputs, kernel_size=1)

    def forward(self, x: Tensor, drop_path: float = 0.0) -> Tensor:
        """(B, C, h, w) to (B, C', h', w')."""
        y = F.gelu(self.conv1_1x1(self.pre_norm(x)))
        if self.up is not None:
            y = self.up(y)
        y = self.conv3_1x1(F.gelu(self.conv2_kxk(y)))
        z: Tensor = (x if self.shortcut is None else self.shortcut(x)) + dropped(
            y, drop_path if self.training else 0.0
        )
        return z


class GatedMlp(nn.Module):
    """w2(gelu(w0 x) * w1 x) of its own norm of x, with the tanh GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.w0 = nn.Linear(width, hidden)
        self.w1 = nn.Linear(width, hidden)
        self.w2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        x = self.norm(x)
        y: Tensor = self.w2(F.gelu(self.w0(x), approximate="tanh") * self.w1(x))
        return y


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(R, N, D) to (R, N, D)."""
        y: Tensor = self.proj(attend(self.qkv(x), self.heads))
        return y


class Block(nn.Module):
    """Attention and gated MLP, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = GatedMlp(width, hidden)

    def forward(self, x: Tensor, drop_path: float = 0.0) -> Tensor:
        """(R, N, D) to (R, N, D); in training a row's branch drops with probability `drop_path`."""
        drop_path = drop_path if self.training else 0.0
        x = x + dropped(self.attn(self.norm1(x)), drop_path)
        return x + dropped(self.mlp(self.norm2(x)), drop_path)


class ProjectingAttention(nn.Module):
    """Attention that changes the width; heads are as wide as the narrower side.

    Going down the heads are averaged, going up they lie side by side. Queries and values have biases.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inner = max(inputs, outputs)
        self.heads = self.inner // min(inputs, outputs)
        self.averages = inputs > outputs
        self.qkv = nn.Linear(inputs, 3 * self.inner, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(self.inner))
        self.v_bias = nn.Parameter(torch.zeros(self.inner))
        self.register_buffer("zero_k_bias", torch.zeros(self.inner))
        self.proj = nn.Linear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(R, N, inputs) to (R, N, outputs)."""
        qkv = self.qkv(x)
        qkv = qkv + torch.cat([self.q_bias, self.get_buffer("zero_k_bias"), self.v_bias]).to(qkv.dtype)
        if self.averages:
            q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            y = vit_attention(q, k, v).mean(1)
        else:
            y = attend(qkv, self.heads)
        z: Tensor = self.proj(y)
        return z


class Projection(nn.Module):
    """A change of width by attention beside a linear layer, then a gated MLP (UniTok, section 3.3).

    Raises:
        ValueError: One width is no multiple of the other.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        if max(inputs, outputs) % min(inputs, outputs):
            raise ValueError(f"unitok: the width {inputs} and the {outputs} channels don't divide")
        self.norm1 = nn.LayerNorm(inputs, eps=PROJECTION_EPS)
        self.attn = ProjectingAttention(inputs, outputs)
        self.proj = nn.Linear(inputs, outputs)
        self.norm3 = nn.LayerNorm(inputs, eps=PROJECTION_EPS)
        self.norm2 = nn.LayerNorm(outputs, eps=PROJECTION_EPS)
        self.mlp = GatedMlp(outputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(R, N, inputs) to (R, N, outputs)."""
        y: Tensor = self.proj(self.norm3(x)) + self.attn(self.norm1(x))
        return y + self.mlp(self.norm2(y))
