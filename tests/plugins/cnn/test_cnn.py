"""The convolutional auto-encoder against a plain computation, its published size, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

import vtp_plugins.cnn.plugin
from vtp_core.decoder import Decoder
from vtp_core.encoder import Encoder
from vtp_core.errors import UsageError
from vtp_core.features import Features
from vtp_core.parameters import Dims
from vtp_core.plugins import Plugins
from vtp_core.recipe.writing.docs import key_docs
from vtp_plugins.cnn.config import CnnDecoderConfig, CnnEncoderConfig
from vtp_plugins.cnn.decoder import CnnDecoder
from vtp_plugins.cnn.encoder import CnnEncoder
from vtp_plugins.kl.bottleneck import KlBottleneck
from vtp_plugins.kl.config import KlConfig

SMALL = {"channels": 32, "multipliers": (1, 2), "residual_blocks": 1, "attention": (2,)}
DIMS = Dims(width=6, patch=2, depth=4, has_cls=False, channels=3)


def small() -> tuple[CnnEncoder, CnnDecoder]:
    torch.manual_seed(0)
    encoder = CnnEncoder(CnnEncoderConfig(**SMALL, width=6)).double()
    decoder = CnnDecoder(CnnDecoderConfig(**SMALL), DIMS).double()
    for module in (*encoder.modules(), *decoder.modules()):
        if isinstance(module, nn.GroupNorm):  # ones and zeros would hide a norm that is not applied
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return encoder, decoder


class Plain:
    """Latent diffusion's auto-encoder written out for the small sizes, from weights by name."""

    def __init__(self, module: nn.Module) -> None:
        self.weights = dict(module.named_parameters())

    def conv(self, x: Tensor, name: str) -> Tensor:
        """By gathering: every output position sees its 3 x 3 (or 1 x 1) surroundings."""
        weight = self.weights[f"{name}.weight"]
        side = weight.shape[-1]
        around = nn.functional.unfold(x, side, padding=side // 2)
        y = weight.flatten(1) @ around + self.weights[f"{name}.bias"][:, None]
        return y.unflatten(2, x.shape[2:])

    def norm(self, x: Tensor, name: str) -> Tensor:
        groups = x.reshape(len(x), 32, -1)
        centred = groups - groups.mean(2, keepdim=True)
        unit = (centred / (centred.square().mean(2, keepdim=True) + 1e-6).sqrt()).view_as(x)
        scale, shift = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return unit * scale[:, None, None] + shift[:, None, None]

    def swish(self, x: Tensor) -> Tensor:
        return x / (1 + (-x).exp())

    def block(self, x: Tensor, name: str) -> Tensor:
        y = self.conv(self.swish(self.norm(x, f"{name}.residual.norm1")), f"{name}.residual.conv1")
        y = self.conv(self.swish(self.norm(y, f"{name}.residual.norm2")), f"{name}.residual.conv2")
        wide = f"{name}.residual.shortcut"
        x = (self.conv(x, wide) if f"{wide}.weight" in self.weights else x) + y
        if f"{name}.attention.q.weight" not in self.weights:
            return x
        y = self.norm(x, f"{name}.attention.norm")
        q, k, v = (self.conv(y, f"{name}.attention.{part}").flatten(2) for part in "qkv")
        scores = torch.einsum("bci,bcj->bij", q, k) / x.shape[1] ** 0.5
        weights = scores.exp() / scores.exp().sum(2, keepdim=True)
        out = torch.einsum("bij,bcj->bci", weights, v).view_as(x)
        return x + self.conv(out, f"{name}.attention.proj")

    def encode(self, x: Tensor) -> Tensor:
        x = self.block(self.conv(x, "conv_in"), "block.0")
        # Stride 2 over a map padded to the right and below: the odd positions of the padded-by-one result.
        x = self.conv(x, "down.0.conv")[:, :, 1::2, 1::2]
        for number in (1, 2, 3):
            x = self.block(x, f"block.{number}")
        return self.conv(self.swish(self.norm(x, "norm")), "conv_out")

    def decode(self, z: Tensor) -> Tensor:
        x = self.conv(self.conv(z, "quant"), "conv_in")
        for number in (0, 1, 2, 3):
            x = self.block(x, f"block.{number}")
        x = self.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3), "up.0.conv")
        for number in (4, 5):
            x = self.block(x, f"block.{number}")
        return self.conv(self.swish(self.norm(x, "norm")), "conv_out")


def test_encoder_is_the_plain_computation() -> None:
    encoder, _ = small()
    images = [torch.randn(2, 2, 3, 8, 12).double(), torch.randn(2, 1, 3, 4, 4).double()]
    for tokens, image in zip(encoder(images, [None, None]), images, strict=True):
        expected = Plain(encoder).encode(image.flatten(0, 1))
        assert tokens.grid == expected.shape[2:] == (image.shape[3] // 2, image.shape[4] // 2)
        assert tokens.cls is None and not tokens.layers
        flat = expected.flatten(2).transpose(1, 2).unflatten(0, image.shape[:2])
        torch.testing.assert_close(tokens.patches, flat)


def test_decoder_is_the_plain_computation() -> None:
    _, decoder = small()
    z = torch.randn(2, 3, 4, 6).double()
    torch.testing.assert_close(decoder(z), Plain(decoder).decode(z))


def test_published_size_and_multiply_adds() -> None:
    """70.27 M parameters and 389.4 GFLOPs (VTP, table 1), the layers between the two networks included."""
    with torch.device("meta"):
        encoder = CnnEncoder(CnnEncoderConfig())
        dims = Dims(width=128, patch=16, depth=encoder.depth, has_cls=False)
        bottleneck = KlBottleneck(KlConfig(channels=64), dims).eval()
        decoder = CnnDecoder(CnnDecoderConfig(), replace(dims, channels=64))
        parts = (encoder, bottleneck, decoder)
        count = sum(parameter.numel() for part in parts for parameter in part.parameters())
        assert count == pytest.approx(70.27e6, rel=1e-3)
        # Without latent diffusion's two convolutions of the latent it is the published number to the digit.
        between = [*bottleneck.parameters(), *decoder.quant.parameters()]
        assert round((count - sum(parameter.numel() for parameter in between)) / 1e4) == 7027

        counted = []
        for module in (module for part in parts for module in part.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(
                    lambda layer, _, out: counted.append(2 * out.numel() * layer.weight[0].numel())
                )
        tokens = encoder([torch.empty(1, 1, 3, 256, 256)], [None])
        assert decoder(bottleneck(Features(crops={"global": tokens[0]})).z).shape == (1, 3, 256, 256)
    assert sum(counted) == pytest.approx(389.4e9, rel=1e-3)


def test_rows_do_not_see_each_other() -> None:
    encoder, decoder = small()
    images = torch.randn(3, 2, 3, 8, 8).double()
    together = encoder([images], [None])[0].patches
    for row in range(3):
        alone = encoder([images[row : row + 1]], [None])[0].patches
        torch.testing.assert_close(together[row : row + 1], alone)
    z = torch.randn(3, 3, 4, 4).double()
    torch.testing.assert_close(decoder(z)[1:2], decoder(z[1:2]))


def test_drop_path_drops_whole_branches_in_training_only() -> None:
    encoder, _ = small()
    image = torch.randn(64, 1, 3, 4, 4).double()
    still = encoder.eval()([image], [None], drop_path=0.5)[0].patches
    torch.testing.assert_close(still, encoder([image], [None])[0].patches)
    block = encoder.train().block[-1]
    x = torch.randn(1, 64, 2, 2).double().expand(64, -1, -1, -1)
    branch = block(x[:1]) - x[:1]
    found = block(x, 0.5) - x
    kept = found.abs().amax((1, 2, 3)) > 0
    assert 0 < kept.sum() < 64
    torch.testing.assert_close(found[kept], (2 * branch).expand(int(kept.sum()), -1, -1, -1))


def test_blocks_hold_most_parameters_and_all_get_gradients() -> None:
    encoder, decoder = small()
    assert len(encoder.blocks()) == encoder.depth == 4
    assert len(decoder.blocks()) == 6
    assert decoder.last_layer() is decoder.conv_out
    tokens = encoder([torch.randn(1, 1, 3, 8, 8).double()], [None])[0]
    decoder(tokens.patches[:, 0, :, :3].transpose(1, 2).unflatten(2, (4, 4))).square().sum().backward()
    for part in (encoder, decoder):
        own = {id(parameter) for block in part.blocks() for parameter in block.parameters()}
        assert len(own) > 0.6 * len(list(part.parameters()))
        assert all(parameter.grad is not None for parameter in part.parameters())


def test_leaves_autocast_in_the_parameters_dtype() -> None:
    encoder, decoder = (part.float() for part in small())
    with torch.autocast("cpu", torch.bfloat16):
        tokens = encoder([torch.randn(1, 1, 3, 8, 8)], [None])[0]
        image = decoder(torch.randn(1, 3, 4, 4))
    assert tokens.patches.dtype == image.dtype == torch.float32


def test_refuses_what_it_cannot_do() -> None:
    encoder, _ = small()
    image = torch.randn(1, 1, 3, 8, 8).double()
    with pytest.raises(UsageError, match="no mask token"):
        encoder([image], [torch.zeros(1, 1, 16, dtype=torch.bool)])
    with pytest.raises(UsageError, match="can't be tapped"):
        encoder([image], [None], layers=(0,))
    with pytest.raises(ValueError, match="9 x 8 pixels is no multiple of the patch 2"):
        encoder([torch.randn(1, 1, 3, 9, 8).double()], [None])
    with pytest.raises(ValueError, match="enlarge by 2, but the encoder's patch is 16"):
        CnnDecoder(CnnDecoderConfig(**SMALL), replace(DIMS, patch=16))


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"channels": 48}, "multiple of 32"), ({"attention": (32,)}, "no map at reduction 32")],
)
def test_configurations_that_do_not_fit(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CnnEncoderConfig(**keys)


@pytest.mark.parametrize(("kind", "base"), [("encoder", Encoder), ("decoder", Decoder)])
def test_offers_its_component(kind: str, base: type) -> None:
    plugins = Plugins()
    plugins.add(vtp_plugins.cnn.plugin, "cnn", distribution="vtp-core")
    component = plugins.find(kind, "cnn")
    assert issubclass(component.load_target(), base)
    config = component.load_config()
    assert config().patch == 16
    assert key_docs(config).keys() == config.model_fields.keys()


def test_configurations_import_no_torch() -> None:
    code = "import sys, vtp_plugins.cnn.plugin, vtp_plugins.cnn.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
