from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from tests.agreement import Agreement
from vtp_core.errors import UsageError
from vtp_core.pixels import IMAGENET_MEAN, IMAGENET_STD
from vtp_core.testing import check_encoder
from vtp_plugins.pretrained.lookup import find_weights
from vtp_plugins.pretrained.packages import is_installed
from vtp_plugins.timm.config import TimmConfig
from vtp_plugins.timm.encoder import TimmEncoder

LITE = "tf_efficientnet_lite0"


def config(name: str = "test_efficientnet", **keys: object) -> TimmConfig:
    return TimmConfig.model_validate({"name": name, "weights": "random", "norm": "none", **keys})


@pytest.mark.agrees("encoder of `timm` feature maps", "timm", 1e-10, relative=True)
@pytest.mark.parametrize("shallow", ["space_to_depth", "average"])
def test_finer_maps_come_to_the_grid_of_the_deepest(shallow: str, agreement: Agreement) -> None:
    torch.manual_seed(0)
    built = TimmEncoder(config(patch=16, shallow=shallow)).double()
    assert (built.depth, built.width, built.patch, built.has_cls) == (4, 48, 16, False)
    ratio = {"space_to_depth": (64, 16, 4, 1), "average": (1, 1, 1, 1)}[shallow]
    assert built.tap_widths == tuple(c * r for c, r in zip((16, 24, 32, 48), ratio, strict=True))
    image = torch.randn(2, 1, 3, 64, 32, dtype=torch.float64)
    (tokens,) = built([image], [None], layers=(1, 3))
    network = timm.create_model("test_efficientnet").double().eval()
    network.load_state_dict(built.network.state_dict(), strict=False)
    maps = network.forward_intermediates(image[:, 0], intermediates_only=True)  # same pixel statistics
    assert tokens.grid == (4, 2)
    agreement(tokens.patches[:, 0], maps[3].flatten(2).mT)
    torch.testing.assert_close(tokens.layers[3], tokens.patches)
    # Token (1, 0) covers rows 4 to 7 and columns 0 to 3 of the map of reduction 4.
    block = maps[1][:, :, 4:8, 0:4]
    expected = block.flatten(1) if shallow == "space_to_depth" else block.mean((2, 3))
    agreement(tokens.layers[1][:, 0, 2], expected)


@pytest.mark.parametrize("trainable", [0, 1])
@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_convnext"])
def test_conforms(name: str, trainable: int) -> None:
    check_encoder(TimmEncoder, config(name, patch=16, trainable=trainable), size=64)


def test_batch_norms_keep_their_statistics_in_trained_stages() -> None:
    built = TimmEncoder(config(patch=16, trainable=2)).train()
    norms = [module for module in built.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)


def test_a_reduction_without_a_map_is_refused() -> None:
    with pytest.raises(UsageError, match="no map of reduction 14; it has 2, 4, 8, 16, 32"):
        TimmEncoder(config(patch=14))
    with pytest.raises(UsageError, match='norm = "none"'):
        TimmEncoder(config(norm="final"))


@pytest.mark.weights
@pytest.mark.skipif(not is_installed(f"timm:{LITE}"), reason="needs the extra offline")
def test_weights_of_the_extra_offline() -> None:
    built = TimmEncoder(config(LITE, weights=None, patch=16))
    network = timm.create_model(LITE).eval()
    network.load_state_dict(find_weights(f"timm:{LITE}").state)
    pixels = torch.rand(1, 3, 64, 64)
    image = (pixels - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    (tokens,) = built([image[:, None]], [None], layers=(1,))
    maps = network.forward_intermediates(2 * pixels - 1, intermediates_only=True)
    torch.testing.assert_close(tokens.patches[:, 0], maps[3].flatten(2).mT, atol=1e-4, rtol=1e-4)
    unshuffled = F.pixel_unshuffle(maps[1], 4).flatten(2).mT
    torch.testing.assert_close(tokens.layers[1][:, 0], unshuffled, atol=1e-4, rtol=1e-4)
