"""The `linear` bottleneck against a plain matrix product."""

from __future__ import annotations

import pytest
import torch

from vtp_core.features import Features, Tokens
from vtp_core.parameters import Dims
from vtp_core.testing import TINY_DIMS, check_bottleneck, drawn_features
from vtp_plugins.linear.bottleneck import LinearBottleneck
from vtp_plugins.linear.config import LinearConfig

DIMS = Dims(width=12, patch=4, depth=1, has_cls=True)


def features() -> Features:
    patches = torch.randn(2, 2, 6, 12)
    return Features(
        crops={
            "global": Tokens(patches=patches, grid=(2, 3), cls=torch.randn(2, 2, 12), layers={0: patches}),
            "local": Tokens(patches=torch.randn(2, 4, 2, 12), grid=(1, 2)),
        }
    )


def test_projects_class_token_and_patches_of_every_crop_set() -> None:
    built, given = LinearBottleneck(LinearConfig(channels=5), DIMS), features()
    [(name, weight)] = built.state_dict().items()
    assert (name, weight.shape) == ("proj.weight", (5, 12))
    latent = built(given)
    assert set(latent.crops) == {"global", "local"}
    for crops, tokens in given.crops.items():
        torch.testing.assert_close(
            latent[crops].patches, torch.einsum("bcnw,dw->bcnd", tokens.patches, weight)
        )
        assert latent[crops].grid == tokens.grid
        assert not latent[crops].layers
    torch.testing.assert_close(latent["global"].cls, torch.einsum("bcw,dw->bcd", given["global"].cls, weight))
    assert latent["local"].cls is None
    torch.testing.assert_close(latent.z[1, :, 1, 2], weight @ given["global"].patches[1, 0, 5])
    assert built.channels == 5


def test_equal_widths_need_no_layer() -> None:
    built, given = LinearBottleneck(LinearConfig(channels=12), DIMS), features()
    assert not list(built.parameters())
    assert torch.equal(built(given)["global"].patches, given["global"].patches)


def test_latent_is_float32_under_autocast() -> None:
    built = LinearBottleneck(LinearConfig(channels=5), DIMS)
    with torch.autocast("cpu", torch.bfloat16):
        assert built(features()).z.dtype == torch.float32


@pytest.mark.parametrize(("norm", "length"), [("rms", 2.0), ("sphere", 1.0)])
def test_normed_tokens_have_their_length(norm: str, length: float) -> None:
    built = LinearBottleneck(LinearConfig(channels=4, norm=norm), TINY_DIMS)
    latent = built(drawn_features(TINY_DIMS))
    for tokens in latent.crops.values():
        torch.testing.assert_close(tokens.patches.norm(dim=-1), torch.full(tokens.patches.shape[:3], length))
    check_bottleneck(LinearBottleneck, LinearConfig(channels=4, norm=norm))
