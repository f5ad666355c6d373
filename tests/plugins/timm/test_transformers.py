from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from tests.agreement import Agreement
from vtp_core.errors import UsageError
from vtp_core.parameters import Dims
from vtp_core.pixels import IMAGENET_MEAN, IMAGENET_STD
from vtp_core.testing import check_encoder
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.linear.bottleneck import LinearBottleneck
from vtp_plugins.linear.config import LinearConfig
from vtp_plugins.timm.config import TimmConfig
from vtp_plugins.timm.encoder import TimmEncoder
from vtp_plugins.vit.config import VitDecoderConfig
from vtp_plugins.vit.decoder import VitDecoder

SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 2}
NETWORKS = {
    "perception encoder": "vit_pe_core_tiny_patch16_384.fb",
    "dino": "vit_small_patch16_224.dino",
    "dinov2": "vit_small_patch14_dinov2.lvd142m",
    "dinov2 with registers": "vit_small_patch14_reg4_dinov2.lvd142m",
    "dinov3": "vit_small_patch16_dinov3.lvd1689m",
    "siglip": "vit_base_patch16_siglip_256.webli",
    "mae": "vit_base_patch16_224.mae",
}


def config(name: str, **keys: object) -> TimmConfig:
    keys.setdefault("options", SMALL)
    return TimmConfig.model_validate({"name": name, "weights": "random", **keys})


def encoder(name: str, seed: int = 0, **keys: object) -> TimmEncoder:
    torch.manual_seed(seed)
    built = TimmEncoder(config(name, **keys))
    with torch.no_grad():  # timm's layer scales start near 0 and hide the blocks
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built.double()


def theirs(built: TimmEncoder, name: str) -> nn.Module:
    """A second network of timm with the same weights, head and all."""
    network = timm.create_model(name, dynamic_img_size=True, **SMALL).double().eval()
    lacking = network.load_state_dict(built.network.state_dict(), strict=False)
    assert not lacking.unexpected_keys
    return network


def normalised(pixels: torch.Tensor, mean: object, std: object) -> torch.Tensor:
    to = torch.tensor(mean).double().view(3, 1, 1), torch.tensor(std).double().view(3, 1, 1)
    return (pixels - to[0]) / to[1]


@pytest.mark.agrees("encoder of `timm` transformers: tokens, layers", "timm", 1e-5, relative=True)
@pytest.mark.parametrize("name", NETWORKS.values(), ids=NETWORKS)
def test_tokens_are_those_of_timm_without_class_token_and_registers(name: str, agreement: Agreement) -> None:
    built = encoder(name)
    network = theirs(built, name)
    pixels = torch.rand(2, 3, 4 * built.patch, 3 * built.patch, dtype=torch.float64)
    image = normalised(pixels, IMAGENET_MEAN, IMAGENET_STD)
    (tokens,) = built([image[:, None]], [None], layers=(0, 2))
    cfg = network.pretrained_cfg
    own = normalised(pixels, cfg["mean"], cfg["std"])
    expected = network.forward_features(own)
    prefix = network.num_prefix_tokens
    assert tokens.grid == (4, 3) and tokens.patches.shape == (2, 1, 12, 24)
    agreement(tokens.patches[:, 0], expected[:, prefix:])  # pixel statistics are float32
    assert built.has_cls == (prefix > 0)
    if built.has_cls:
        assert tokens.cls is not None
        agreement(tokens.cls[:, 0], expected[:, 0])
    outputs: list[torch.Tensor] = []
    for block in network.blocks:
        block.register_forward_hook(lambda _, __, out: outputs.append(out))
    network.forward_features(own)
    for layer in (0, 2):
        agreement(tokens.layers[layer][:, 0], outputs[layer][:, prefix:])


@pytest.mark.parametrize("norm", ["final", "none", "no_affine"])
def test_norms_of_the_last_block(norm: str) -> None:
    built = encoder("vit_small_patch16_224.dino", norm=norm)
    (tokens,) = built([torch.randn(1, 1, 3, 32, 32, dtype=torch.float64)], [None], layers=(2,))
    raw = tokens.layers[2]
    expected = {
        "final": built.network.norm(raw),
        "none": raw,
        "no_affine": F.layer_norm(raw, (24,), eps=1e-6),
    }[norm]
    torch.testing.assert_close(tokens.patches, expected)


def test_patch_14_sees_images_of_256_pixels_at_224() -> None:
    name = NETWORKS["dinov2 with registers"]
    built = encoder(name, patch=16)
    assert built.patch == 16
    image = torch.randn(1, 1, 3, 256, 256, dtype=torch.float64)
    (tokens,) = built([image], [None])
    assert tokens.grid == (16, 16)
    small = F.interpolate(image[:, 0], size=(224, 224), mode="bicubic", antialias=True)
    (expected,) = encoder(name)([small[:, None]], [None])  # the ImageNet statistics are its own
    torch.testing.assert_close(tokens.patches, expected.patches)


def test_2560_x_1440_pixels_are_encoded_and_decoded_as_160_x_90_tokens() -> None:
    built = TimmEncoder(config("vit_tiny_patch16_224", options={"embed_dim": 8, "depth": 1, "num_heads": 1}))
    seen: list[torch.Size] = []
    built.network.patch_embed.register_forward_hook(lambda _, args, __: seen.append(args[0].shape))
    dims = Dims(width=8, patch=16, depth=1, has_cls=True)
    bottleneck = LinearBottleneck(LinearConfig(channels=4), dims)
    table = VitDecoderConfig(width=8, depth=1, heads=1)
    decoder = VitDecoder(table, replace(dims, channels=4))
    tokenizer = Tokenizer(built, bottleneck, decoder).eval().requires_grad_(False)
    latent = tokenizer.encode(torch.randn(1, 3, 1440, 2560)).latent
    assert latent.shape == (1, 4, 90, 160) and seen == [(1, 3, 1440, 2560)]
    assert tokenizer.decode(latent).sample.shape == (1, 3, 1440, 2560)


@pytest.mark.parametrize("store", ["whole", "reference"])
def test_full_networks_are_built_on_the_meta_device_without_weights(store: str) -> None:
    table = {"name": "vit_large_patch16_dinov3.lvd1689m", "store": store, "hash": "0123456789abcdef"}
    with torch.device("meta"):
        built = TimmEncoder(TimmConfig.model_validate(table))
    assert (built.width, built.depth, built.patch, built.has_cls) == (1024, 24, 16, True)
    assert all(parameter.is_meta for parameter in built.parameters())


def test_fixed_positions_refuse_another_size() -> None:
    options = {"embed_dim": 16, "depth": 1, "num_heads": 1, "img_size": 32, "use_rel_pos_bias": True}
    built = TimmEncoder(config("beit_base_patch16_224", options=options, norm="none"))
    built([torch.randn(1, 1, 3, 32, 32)], [None])
    with pytest.raises(UsageError, match="are those of 32 x 32 pixels, these images come as 48 x 32"):
        built([torch.randn(1, 1, 3, 48, 32)], [None])


@pytest.mark.parametrize("name", ["dinov2 with registers", "siglip", "dinov3"])
@pytest.mark.parametrize("trainable", [0, 2])
def test_conforms(name: str, trainable: int) -> None:
    check_encoder(TimmEncoder, config(NETWORKS[name], patch=16, trainable=trainable), size=64)


def test_the_residual_network_is_a_tap_of_its_own() -> None:
    table = config(NETWORKS["dino"], residual={"width": 16, "depth": 1, "heads": 1, "layer_decay": 0.5})
    check_encoder(TimmEncoder, table, size=64)
    built = TimmEncoder(table).eval()
    image = torch.randn(1, 1, 3, 32, 32)
    (tokens,) = built([image], [None], layers=(0, 3))
    assert built.residual is not None
    (alone,) = built.residual([image], [None])
    torch.testing.assert_close(tokens.layers[3], alone.patches)
    assert "residual.block.0.*" in {rule.pattern for rule in built.rules()}
    with pytest.raises(UsageError, match=r"residual\.patch is 8, the encoder's 16"):
        TimmEncoder(config(NETWORKS["dino"], residual={"width": 16, "depth": 1, "heads": 1, "patch": 8}))


def test_only_the_last_blocks_are_trained() -> None:
    built = TimmEncoder(config(NETWORKS["dino"], trainable=2))
    trained = {name for name, value in built.named_parameters() if value.requires_grad}
    assert trained == {
        name
        for name, _ in built.named_parameters()
        if name.startswith(("network.blocks.1", "network.blocks.2"))
    }
    assert not built.train().network.training
    assert not any(value.requires_grad for value in TimmEncoder(config(NETWORKS["dino"])).parameters())


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("no_such_network", {"options": {}}, "timm can't build 'no_such_network'"),
        (NETWORKS["dino"], {"trainable": 4}, "trainable = 4, but .* has 3 blocks"),
        (NETWORKS["dino"], {"options": {"colour": 1}}, "does not take these options .*colour"),
        ("beit_base_patch16_224", {"options": {"depth": 1}}, 'no final norm.*norm = "none"'),
        (NETWORKS["dino"], {"weights": "/no/such.safetensors"}, "no such file"),
    ],
)
def test_what_a_network_lacks_is_one_clear_error(name: str, keys: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TimmEncoder(config(name, **keys))


def test_masks_drop_path_and_missing_taps_are_refused() -> None:
    built = TimmEncoder(config(NETWORKS["dino"], trainable=1)).train()
    image = torch.randn(1, 1, 3, 32, 32)
    with pytest.raises(UsageError, match="no mask token"):
        built([image], [torch.zeros(1, 1, 4, dtype=torch.bool)])
    with pytest.raises(UsageError, match="drop no paths"):
        built([image], [None], drop_path=0.1)
    with pytest.raises(UsageError, match=r"block 3 .*: blocks 0 \.\. 2 can be tapped"):
        built([image], [None], layers=(3,))
    with pytest.raises(ValueError, match="no multiple of the patch 16"):
        built([image[..., :30]], [None])
