"""A tiny tokenizer with random weights that embeds images and texts, for tests of evaluators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp_core.artefact.config import ArtefactConfig
from vtp_core.features import Features
from vtp_core.parameters import Dims
from vtp_core.testing.networks import TINY_DIMS, TinyNetworks
from vtp_core.tokenizer import Tokenizer

EMBEDDING = 8


class TinyImageHead(nn.Module):
    """The mean token, projected and normalised."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.project = nn.Linear(dims.width, EMBEDDING)

    def forward(self, features: Features) -> Tensor:
        """(B, 8)."""
        return F.normalize(self.project(features.patches[:, 0].mean(1)), dim=-1)


class TinyTextHead(nn.Module):
    """The mean embedding of a text's bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(256, EMBEDDING)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """(number of texts, 8)."""
        means = [self.table(torch.tensor(list(text.encode()) or [0])).mean(0) for text in texts]
        return F.normalize(torch.stack(means), dim=-1)


def tiny_tokenizer(dims: Dims = TINY_DIMS, *, size: int = 32, seed: int = 0) -> Tokenizer:
    """A tokenizer in eval mode that can encode, decode, embed images and embed texts.

    Args:
        dims: Its sizes.
        size: Its image size in pixels.
        seed: Of the weights; torch's global generator is left as it was.
    """
    networks = TinyNetworks(dims, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        exports: dict[str, nn.Module] = {"embed_image": TinyImageHead(dims), "embed_text": TinyTextHead()}
    tables = {part: {"use": f"tiny.{part}"} for part in ("encoder", "bottleneck", "decoder")}
    config = ArtefactConfig(vtp_version="0", recipe="tiny", step=0, image_size=size, **tables)
    tokenizer = Tokenizer(networks.encoder, networks.bottleneck, networks.decoder, exports, config=config)
    return tokenizer.eval().requires_grad_(False)
