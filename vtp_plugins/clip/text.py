"""The text tower: a pre-norm transformer with a causal mask, as in CLIP and VTP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp_plugins.clip.tokenizer import VOCABULARY, CaptionTokenizer


class QuickGelu(nn.Module):
    """x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Element-wise."""
        return x * torch.sigmoid(1.702 * x)


class TextBlock(nn.Module):
    """Pre-norm causal attention and MLP, each with a residual.

    Args:
        width: Width D.
        heads: Attention heads, which divide it.
        mlp_ratio: Hidden width over D.
        quick_gelu: Use `QuickGelu`.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, quick_gelu: bool) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-5)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-5)
        self.fc1 = nn.Linear(width, hidden)
        self.act: nn.Module = QuickGelu() if quick_gelu else nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D); a token sees itself and those before it."""
        query, key, value = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        x = x + self.fc2(self.act(self.fc1(self.norm2(x))))
        return x


class TextTower(nn.Module):
    """Captions to unit-length embeddings.

    Args:
        width: Width D.
        depth: Blocks.
        heads: Attention heads.
        context: Tokens a caption.
        embedding: Width E of the embedding.
        mlp_ratio: Hidden width of the MLPs over D.
        quick_gelu: Use `QuickGelu`.
        vocabulary: Token ids; the largest id of a caption ends it.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        context: int,
        embedding: int,
        mlp_ratio: float = 4.0,
        quick_gelu: bool = False,
        vocabulary: int = VOCABULARY,
    ) -> None:
        super().__init__()
        self.tokenizer = CaptionTokenizer(context)
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(context, width))
        self.blocks = nn.ModuleList(TextBlock(width, heads, mlp_ratio, quick_gelu) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.projection = nn.Linear(width, embedding, bias=False)
        self._initialise()

    def forward(self, texts: Tensor | Sequence[str]) -> Tensor:
        """Unit-length embeddings (B, E), float32 or wider.

        Args:
            texts: Token ids (B, T) int64 or captions.
        """
        ids = texts if isinstance(texts, Tensor) else self.tokenizer(texts).to(self.positions.device)
        projected = self.project(ids)
        return F.normalize(projected.to(torch.promote_types(projected.dtype, torch.float32)), dim=-1)

    def project(self, ids: Tensor) -> Tensor:
        """Embeddings (B, E) before they are scaled to length 1, of ids (B, T)."""
        x = self.token_embedding(ids) + self.positions
        for block in self.blocks:
            x = block(x)
        end = ids.argmax(1)  # the end token has the largest id
        pooled = self.norm(x)[torch.arange(len(ids), device=ids.device), end]
        projected: Tensor = self.projection(pooled)
        return projected

    def _initialise(self) -> None:
        """CLIP's scales; biases start at 0."""
        width, depth = self.positions.shape[1], len(self.blocks)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        nn.init.normal_(self.projection.weight, std=width**-0.5)
        stds = {
            "qkv": width**-0.5,
            "proj": width**-0.5 * (2 * depth) ** -0.5,
            "fc1": (2 * width) ** -0.5,
            "fc2": width**-0.5 * (2 * depth) ** -0.5,
        }
        for block in self.blocks:
            for name, std in stds.items():
                linear = block.get_submodule(name)
                assert isinstance(linear, nn.Linear)
                nn.init.normal_(linear.weight, std=std)
                nn.init.zeros_(linear.bias)
