"""The `vit` decoder: shapes, layout of the pixels, checkpointing, autocast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vtp_core.ops import attention_choice
from vtp_core.parameters import Dims
from vtp_plugins.vit.config import VitDecoderConfig
from vtp_plugins.vit.decoder import VitDecoder

DIMS = Dims(width=24, patch=4, depth=3, has_cls=True, channels=5)


def decoder(**changes: Any) -> VitDecoder:
    return VitDecoder(VitDecoderConfig(**{"width": 24, "depth": 2, "heads": 2, **changes}), DIMS)


@pytest.mark.parametrize(("options", "side"), [({}, 4), ({"upscale": 8}, 8)])
def test_shape_and_range(options: dict[str, Any], side: int) -> None:
    built = decoder(**options)
    assert built(torch.randn(2, 5, 3, 2)).shape == (2, 3, 3 * side, 2 * side)
    assert built.value_range == "imagenet"
    assert decoder(value_range=(-1.0, 1.0)).value_range == (-1.0, 1.0)


def test_last_layer_alone_makes_the_image() -> None:
    built = decoder()
    kept: list[Tensor] = []
    built.last_layer().register_forward_hook(lambda module, args, out: kept.append(args[0]))
    image = built(torch.randn(1, 5, 2, 3))
    layer = built.last_layer()
    y, x, channel, dy, dx = 1, 2, 1, 3, 0
    weight = layer.weight[channel * 16 + dy * 4 + dx, :, 0, 0]
    expected = weight @ kept[0][0, :, y, x] + layer.bias[channel * 16 + dy * 4 + dx]
    torch.testing.assert_close(image[0, channel, y * 4 + dy, x * 4 + dx], expected)


def test_checkpointed_blocks_give_equal_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    built, z = decoder(), torch.randn(2, 5, 3, 3)
    built(z).square().sum().backward()
    plain = {name: parameter.grad for name, parameter in built.named_parameters()}
    built.zero_grad()
    for block in built.blocks():
        forward = block.forward
        monkeypatch.setattr(
            block, "forward", lambda *args, forward=forward: checkpoint(forward, *args, use_reentrant=False)
        )
    built(z).square().sum().backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None, name
        assert torch.equal(parameter.grad, plain[name]), name


def test_attention_implementations_agree() -> None:
    built, z = decoder(), torch.randn(1, 5, 4, 4)
    nn.init.normal_(built.blocks()[0].attn.qkv.weight)
    outs = []
    for name in ("reference", "sdpa", "matmul"):
        built.use_attention(attention_choice(name))
        assert {block.attn.implementation.kernels[0].name for block in built.blocks()} == {name}
        outs.append(built(z))
    torch.testing.assert_close(outs[1], outs[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outs[2], outs[0], atol=1e-5, rtol=1e-5)


def test_image_is_float32_under_autocast() -> None:
    built, z = decoder(), torch.randn(1, 5, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        image = built(z)
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, built(z), atol=0.05, rtol=0.05)
