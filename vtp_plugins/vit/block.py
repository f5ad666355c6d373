"""A transformer block on packed tokens, its drop path, and the initial values of its weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vtp_plugins.vit.attention import Attention, CropRows, Layout
from vtp_plugins.vit.config import DropPathMode, VitConfig
from vtp_plugins.vit.ffn import Mlp, SwiGlu
from vtp_plugins.vit.norm import LayerScale, make_norm

_Branch = Callable[[Tensor, Layout], Tensor]


class Block(nn.Module):
    """Pre-norm block: attention, then feed-forward, each added to its input.

    Takes the tokens of all crop sets as one tensor, so that it is called once a forward (a unit of sharding
    and of checkpointing). Draws from torch's global generator only: run again with the same seed, it
    repeats itself.
    """

    def __init__(self, config: VitConfig, drop_path_mode: DropPathMode = "row") -> None:
        super().__init__()
        width, scale = config.width, config.layer_scale
        self.drop_path_mode = drop_path_mode
        self.norm1 = make_norm(config.norm, width)
        self.attn = Attention(width, config.heads, qk_norm=config.qk_norm)
        self.ls1 = LayerScale(width, scale) if scale else nn.Identity()
        self.norm2 = make_norm(config.norm, width)
        self.mlp = Mlp(width, config.hidden) if config.ffn == "mlp" else SwiGlu(width, config.hidden)
        self.ls2 = LayerScale(width, scale) if scale else nn.Identity()

    def forward(self, x: Tensor, layout: Layout, drop_path: float = 0.0) -> Tensor:
        """One block.

        Args:
            x: (T, D), the crop sets' tokens one set after the other, each (rows * tokens, D).
            layout: What lies where.
            drop_path: Probability of dropping a branch of a crop; only in training.

        Returns:
            (T, D).
        """
        drop_path = drop_path if self.training else 0.0
        x = self._add(x, layout, self._attention, drop_path)
        return self._add(x, layout, self._feed_forward, drop_path)

    def _attention(self, x: Tensor, layout: Layout) -> Tensor:
        y: Tensor = self.ls1(self.attn(self.norm1(x), layout))
        return y

    def _feed_forward(self, x: Tensor, layout: Layout) -> Tensor:
        y: Tensor = self.ls2(self.mlp(self.norm2(x)))
        return y

    def _add(self, x: Tensor, layout: Layout, branch: _Branch, drop_path: float) -> Tensor:
        if not drop_path:
            return x + branch(x, layout)
        if self.drop_path_mode == "row":
            return x + branch(x, layout) * _row_factors(x, layout, drop_path)
        index, factors, kept = _subset(x, layout, drop_path)
        residual = branch(x[index], kept) * factors
        return x.index_add(0, index, residual.to(x.dtype))


def _row_factors(x: Tensor, layout: Layout, drop_path: float) -> Tensor:
    """(T, 1): 0 for the tokens of a dropped crop, 1 / (1 - drop_path) for the others."""
    factors = []
    for crops in layout:
        kept = (torch.rand(crops.rows, 1, device=x.device) >= drop_path).to(x.dtype) / (1 - drop_path)
        factors.append(kept.expand(-1, crops.tokens).reshape(-1, 1))
    return torch.cat(factors)


def _subset(x: Tensor, layout: Layout, drop_path: float) -> tuple[Tensor, Tensor, Layout]:
    """Tokens of the crops that keep the branch: index (T',), factor (T', 1) and layout of those.

    Of each crop set of r rows, max(1, floor(r * (1 - drop_path))) are kept and scaled by r over their number
    (DINOv2), so a set of one row always keeps its branch.
    """
    indices, factors, layouts = [], [], []
    start = 0
    for crops in layout:
        count = min(crops.rows, max(1, int(crops.rows * (1 - drop_path))))
        rows = torch.randperm(crops.rows, device=x.device)[:count]
        tokens = torch.arange(crops.tokens, device=x.device)
        indices.append((start + rows[:, None] * crops.tokens + tokens).flatten())
        factors.append(x.new_full((count * crops.tokens, 1), crops.rows / count))
        layouts.append(CropRows(count, crops.tokens, crops.rope))
        start += crops.rows * crops.tokens
    return torch.cat(indices), torch.cat(factors), Layout(layouts)


def initialize(module: nn.Module) -> None:
    """Initial values of one module's own parameters; for ``root.apply(initialize)``.

    Linear weights: truncated normal of standard deviation 0.02, biases zero; convolutions uniform within
    1 / sqrt(fan in), as PyTorch's default; norms, scales and rotary periods their own.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_in = module.weight[0].numel()
        nn.init.uniform_(module.weight, -(fan_in**-0.5), fan_in**-0.5)
        if module.bias is not None:
            nn.init.uniform_(module.bias, -(fan_in**-0.5), fan_in**-0.5)
    elif not list(module.children()) and callable(reset := getattr(module, "reset_parameters", None)):
        reset()
