"""What probes read of a tokenizer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from vtp_core.evaluation.vectors import read_vectors
from vtp_core.features import Features, Tokens


def _seen(rows: int = 3, width: int = 5, channels: int = 2):
    tokens = Tokens(cls=torch.randn(rows, 1, width), patches=torch.randn(rows, 1, 6, width), grid=(2, 3))
    features = Features(crops={"global": tokens})
    return SimpleNamespace(
        features=features, encoded=SimpleNamespace(latent=torch.randn(rows, channels, 2, 3))
    )


@pytest.mark.parametrize(
    ("reading", "width"), [("cls", 5), ("patches", 5), ("cls_patches", 10), ("latent", 2), ("latent_map", 12)]
)
def test_readings_have_their_width(reading, width):
    assert read_vectors(_seen(), reading).shape == (3, width)


def test_the_latent_map_keeps_positions_and_its_mean_is_the_mean_latent():
    seen = _seen()
    whole = read_vectors(seen, "latent_map").view(3, 2, 6)
    torch.testing.assert_close(whole.mean(-1), read_vectors(seen, "latent"))
    torch.testing.assert_close(whole[:, :, 4], seen.encoded.latent[:, :, 1, 1])
