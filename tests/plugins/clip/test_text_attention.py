from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vtp_plugins.clip.text import SHORT, TextBlock


def _exact(block: TextBlock, x: torch.Tensor, *, causal: bool) -> torch.Tensor:
    """Attention of a block in float64, score by score."""
    weight, bias = block.qkv.weight.double(), block.qkv.bias.double()
    q, k, v = F.linear(F.layer_norm(x.double(), x.shape[-1:], eps=1e-5), weight, bias).chunk(3, -1)
    q, k, v = (part.unflatten(-1, (block.heads, -1)).transpose(1, 2) for part in (q, k, v))
    scores = torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5
    if causal:
        later = torch.arange(x.shape[1])[None, :] > torch.arange(x.shape[1])[:, None]
        scores[:, :, later] = -torch.inf
    mixed = torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v).transpose(1, 2).flatten(2)
    x = x.double() + F.linear(mixed, block.proj.weight.double(), block.proj.bias.double())
    hidden = F.linear(
        F.layer_norm(x, x.shape[-1:], eps=1e-5), block.fc1.weight.double(), block.fc1.bias.double()
    )
    return x + F.linear(F.gelu(hidden), block.fc2.weight.double(), block.fc2.bias.double())


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tokens", [1, 9, SHORT + 1])
def test_narrow_and_wide_attention_are_the_same_formula(causal: bool, tokens: int) -> None:
    torch.manual_seed(0)
    block = TextBlock(32, 4, 2.0, False, causal=causal)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else None
    x = torch.randn(2, tokens, 32)
    leaves = [x.clone().requires_grad_() for _ in range(3)]
    expected = _exact(block, leaves[0], causal=causal)
    wide = block(leaves[1])
    with torch.autocast("cpu", torch.bfloat16):
        narrow = block(leaves[2])
    slope = torch.randn_like(wide)
    gradients = [
        torch.autograd.grad(result, leaf, slope.to(result.dtype))[0]
        for result, leaf in zip((expected, wide, narrow), leaves, strict=True)
    ]
    torch.testing.assert_close(wide.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-3)
    assert (narrow - expected).norm() < 0.03 * expected.norm()
    assert (gradients[2] - gradients[0]).norm() < 0.05 * gradients[0].norm()
