"""`reconstruct`, and that a tokenizer is a module as any other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.core.toy_tokenizer import PATCH, toy_tokenizer
from vtp_core.encoded import Encoded
from vtp_core.errors import UsageError
from vtp_core.features import Features
from vtp_core.testing import ConformanceError, check_tokenizer
from vtp_core.tokenizer import Tokenizer

PICTURES = [np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8) for seed in (0, 1)]


def test_images_beside_their_reconstructions() -> None:
    tokenizer = toy_tokenizer()
    pixels = tokenizer.preprocess(PICTURES)
    expected = tokenizer.postprocess(tokenizer.decode(tokenizer.encode(pixels).latent).sample)
    found = tokenizer.reconstruct(PICTURES)
    assert len(found) == 2
    for pair, picture, image in zip(found, PICTURES, expected, strict=True):
        assert isinstance(pair, Image.Image) and pair.size == (32, 16)
        assert np.array_equal(np.asarray(pair)[:, :16], picture)
        assert np.array_equal(np.asarray(pair)[:, 16:], np.asarray(image))
    again = tokenizer.reconstruct(pixels.requires_grad_())
    assert [pair.tobytes() for pair in again] == [pair.tobytes() for pair in found]
    (one,) = tokenizer.reconstruct(torch.zeros(1, 3, 4 * PATCH, 2 * PATCH))  # as many patches as it gets
    assert one.size == (4 * PATCH, 4 * PATCH)


def test_what_has_no_reconstruction(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = toy_tokenizer()
    whole = tokenizer.decoder
    tokenizer.decoder = None
    with pytest.raises(UsageError, match="has no decoder"):
        tokenizer.reconstruct(PICTURES)
    assert whole is not None
    tokenizer.decoder = whole
    monkeypatch.setattr(whole, "forward", lambda z: torch.zeros(len(z), 3, 8, 8))
    with pytest.raises(UsageError, match="images of 16 x 16 come back as 8 x 8"):
        tokenizer.reconstruct(PICTURES)


class OfBatch(nn.Module):
    """Breaks the rule that rows are apart."""

    def forward(self, z: Tensor) -> Tensor:
        return z - z.mean(0, keepdim=True)


class Detached(nn.Module):
    """Lets no gradient through."""

    def forward(self, z: Tensor) -> Tensor:
        return z.detach() + 0 * z


class Rounded(nn.Module):
    """Has a gradient that is not its own."""

    def forward(self, z: Tensor) -> Tensor:
        return z + (z.square() - z).detach()


class Forgetful(nn.Module):
    """Is not the same after a copy."""

    factor = 2.0

    def __deepcopy__(self, memo: object) -> Forgetful:
        copied = Forgetful()
        copied.factor = 3.0
        return copied

    def forward(self, z: Tensor) -> Tensor:
        return z * self.factor


class Unpicklable(nn.Module):
    """Holds a function that has no name."""

    def __init__(self) -> None:
        super().__init__()
        self.call = lambda z: z

    def forward(self, z: Tensor) -> Tensor:
        return self.call(z)


class Changed(Tokenizer):
    """A toy whose latents go through one more layer."""

    def encode_features(self, features: Features) -> Encoded:
        encoded = super().encode_features(features)
        return replace(encoded, latent=self.get_submodule("layer")(encoded.latent))


def changed(layer: nn.Module) -> Tokenizer:
    plain = toy_tokenizer(text=False)
    model = Changed(plain.encoder, plain.bottleneck, plain.decoder, config=plain.config)
    model.layer = layer
    return model.eval()


def test_the_check_passes_a_sound_tokenizer() -> None:
    check_tokenizer(toy_tokenizer(text=False), compiles=False)
    check_tokenizer(changed(nn.Tanh()), compiles=False)


def test_tokenizers_checked_before_do_not_count_towards_the_limit_of_compilations() -> None:
    with torch._dynamo.config.patch(recompile_limit=1):
        check_tokenizer(toy_tokenizer(text=False))
        check_tokenizer(changed(nn.Tanh()))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (OfBatch(), "the latent of an image depends on the others of its batch"),
        (Forgetful(), "deepcopy gives other latents"),
        (Unpicklable(), "it can't be pickled: .*lambda"),
        (Detached(), "no finite gradient goes through encode"),
        (Rounded(), "the gradient of encode is not that of central differences"),
    ],
)
def test_the_check_finds_flaws(layer: nn.Module, message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_tokenizer(changed(layer), compiles=False)


def test_the_check_wants_eval_mode() -> None:
    with pytest.raises(ConformanceError, match="not in eval mode"):
        check_tokenizer(toy_tokenizer(text=False).train(), compiles=False)
