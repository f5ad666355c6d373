"""A causal transformer on codes (as LlamaGen, Sun et al. 2024), with several codes a position.

Token 0 is the class, token n > 0 the sum of the embeddings of the codes of position n - 1; the output of
token n is for position n. Positions are in raster order.

Shapes: B rows, Q codebooks, N = h w positions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtp_core.ops import AttentionChoice, Rope
from vtp_core.ops.attention_torch import accumulation
from vtp_plugins.generation.network import grid_waves, rotary
from vtp_plugins.generation_ar.attention import CausalAttention, KeysAndValues
from vtp_plugins.generation_ar.config import CodeTransformerConfig
from vtp_plugins.vit.ffn import SwiGlu
from vtp_plugins.vit.norm import RmsNorm

INITIAL_STD = 0.02
"""Deviation of initial weights (LlamaGen)."""


class Block(nn.Module):
    """Pre-norm causal attention and SwiGLU."""

    def __init__(self, config: CodeTransformerConfig) -> None:
        super().__init__()
        self.norm1 = RmsNorm(config.width)
        self.attn = CausalAttention(config.width, config.heads, qk_norm=config.qk_norm)
        self.norm2 = RmsNorm(config.width)
        self.mlp = SwiGlu(config.width, hidden_width(config))

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        x = x + self.attn(self.norm1(x), rope)
        return x + self.mlp(self.norm2(x))

    def step(self, x: Tensor, rope: Rope | None, past: KeysAndValues) -> Tensor:
        """The next token (B, 1, D); see `CausalAttention.step`."""
        x = x + self.attn.step(self.norm1(x), rope, past)
        return x + self.mlp(self.norm2(x))


class CodeHead(nn.Module):
    """Logits of one codebook, from a position's output and the position's codes of the codebooks before.

    Args:
        config: Sizes of the transformer.
        codes: Codes of this codebook.
        before: Codes of each codebook before it.
    """

    def __init__(self, config: CodeTransformerConfig, codes: int, before: Sequence[int]) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(size, config.width) for size in before)
        self.norm1 = RmsNorm(config.width)
        self.mlp = SwiGlu(config.width, hidden_width(config))
        self.norm2 = RmsNorm(config.width)
        self.out = nn.Linear(config.width, codes)

    def forward(self, x: Tensor, before: Sequence[Tensor]) -> Tensor:
        """Logits (..., K) of outputs (..., D) and codes (...) each of the codebooks before."""
        for embed, codes in zip(self.embed, before, strict=True):
            x = x + embed(codes)
        x = x + self.mlp(self.norm1(x))
        logits: Tensor = self.out(self.norm2(x))
        return logits


class CodeTransformer(nn.Module):
    """Likelihoods of codes under classes.

    Args:
        config: Sizes.
        sizes: Codes of each codebook.
        classes: Classes; one more, the last, stands for none.
    """

    def __init__(self, config: CodeTransformerConfig, sizes: Sequence[int], classes: int = 0) -> None:
        super().__init__()
        self.config, self.sizes, self.classes = config, tuple(sizes), classes
        self.class_embed = nn.Embedding(classes + 1, config.width)
        self.code_embed = nn.ModuleList(nn.Embedding(size, config.width) for size in sizes)
        # Not named `blocks`, which is a method: sharding and checkpointing ask for it.
        self.block = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = nn.ModuleList(CodeHead(config, size, sizes[:q]) for q, size in enumerate(sizes))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws initial values from torch's global generator; the last layers start at zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INITIAL_STD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            elif isinstance(module, RmsNorm):
                module.reset_parameters()
        for head in self.head:
            nn.init.zeros_(head.out.weight)  # type: ignore[union-attr, arg-type]

    def blocks(self) -> Sequence[nn.Module]:
        """All blocks, first to last."""
        return list(self.block)

    def use_attention(self, implementation: AttentionChoice) -> None:
        """Sets which attention implementation all blocks use."""
        for module in self.modules():
            if isinstance(module, CausalAttention):
                module.implementation = implementation

    def forward(self, codes: Tensor, label: Tensor) -> Tensor:
        """Negative log-likelihoods, in nats.

        Args:
            codes: (B, Q, h, w) int64.
            label: (B,) int64 classes, `classes` for none.

        Returns:
            (B, Q, h, w) float32, or float64 for such weights.
        """
        grid = (codes.shape[2], codes.shape[3])
        flat = codes.flatten(2)
        outputs = self._outputs(flat, label, grid)
        found = []
        for q, head in enumerate(self.head):
            logits = head(outputs, flat[:, :q].unbind(1))
            wide = logits.to(accumulation(logits.dtype)).flatten(0, 1)
            loss = F.cross_entropy(wide, flat[:, q].flatten(), reduction="none")
            found.append(loss.view_as(flat[:, q]))
        return torch.stack(found, 1).unflatten(2, grid)

    def start(self, rows: int, grid: tuple[int, int], label: Tensor) -> Decoding:
        """Begins to generate rows of codes of a grid, under classes (rows,)."""
        return Decoding(self, rows, grid, label)

    def embedded(self, codes: Sequence[Tensor]) -> Tensor:
        """(..., D) of codes (...), one tensor for each codebook."""
        parts = [embed(one) for embed, one in zip(self.code_embed, codes, strict=True)]
        return torch.stack(parts).sum(0)

    def _outputs(self, flat: Tensor, label: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, D) of codes (B, Q, N)."""
        first = self.class_embed(label)[:, None]
        tokens = torch.cat([first, self.embedded(flat[:, :, :-1].unbind(1))], 1)
        places, rope = places_of(self.config, grid, first)
        tokens = tokens + places
        for block in self.block:
            tokens = block(tokens, Rope(rope.cos[:-1], rope.sin[:-1]))
        return tokens


class Decoding:
    """The transformer's outputs position by position; each token is computed once."""

    def __init__(self, network: CodeTransformer, rows: int, grid: tuple[int, int], label: Tensor) -> None:
        config = network.config
        self._network = network
        self._token: Tensor = network.class_embed(label)[:, None]
        self._places, self._rope = places_of(config, grid, self._token)
        count, width = grid[0] * grid[1], config.width // config.heads
        self._past = [KeysAndValues(rows, count, config.heads, width, self._token) for _ in network.block]
        self._position = 0

    def output(self) -> Tensor:
        """(B, D) for the position whose codes come next."""
        n = self._position
        token, rope = self._token + self._places[n], None
        if n > 0:
            rope = Rope(self._rope.cos[n - 1 : n], self._rope.sin[n - 1 : n])
        for block, past in zip(self._network.block, self._past, strict=True):
            token = block.step(token, rope, past)  # type: ignore[operator]
        return token[:, 0]

    def add(self, codes: Sequence[Tensor]) -> None:
        """Goes on to the next position with the codes (B,) of this one, one tensor for each codebook."""
        self._token = self._network.embedded(codes)[:, None]
        self._position += 1


def hidden_width(config: CodeTransformerConfig) -> int:
    """Hidden width of SwiGLU."""
    return int(int(config.width * config.mlp_ratio) * 2 / 3)


def places_of(config: CodeTransformerConfig, grid: tuple[int, int], like: Tensor) -> tuple[Tensor, Rope]:
    """Encodings of positions: vectors (N, D) of positions to predict, and rotary tables of positions.

    Token n gets vector n, and turns by the position whose codes it holds, n - 1; the class does not turn.
    """
    rope = rotary(grid, config.width // config.heads, config.rope_base, like)
    return grid_waves(grid, config.width, like), rope
