"""`Tokenizer`: shapes, distributions, ranges, statistics and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tests.core.toy_tokenizer import PATCH, WIDTH, toy_tokenizer
from vtp_core.errors import UsageError
from vtp_core.features import Features

PIXELS = (0.4 * torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))).clamp(-1.5, 1.5)


def test_import_is_lazy() -> None:
    code = (
        "import sys, vtp_core; assert 'torch' not in sys.modules; vtp_core.__version__; dir(vtp_core); "
        "assert 'torch' not in sys.modules; vtp_core.Tokenizer; assert 'torch' in sys.modules; "
        "assert callable(vtp_core.load)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_unknown_public_name() -> None:
    import vtp_core

    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        vtp_core.lod  # noqa: B018
    assert set(vtp_core.__all__) <= set(dir(vtp_core))


def test_round_trip_gives_the_pixels_back() -> None:
    tokenizer = toy_tokenizer()
    encoded = tokenizer.encode(PIXELS)
    assert encoded.latent.shape == (2, WIDTH, 16 // PATCH, 24 // PATCH)
    assert encoded.indices is None
    # Row-major positions: the patch at row 1, column 2.
    expected = PIXELS[:, :, 4:8, 8:12].flatten(1)
    torch.testing.assert_close(encoded.latent[:, :, 1, 2], expected)
    torch.testing.assert_close(tokenizer.decode(encoded.latent).sample, PIXELS, atol=1e-5, rtol=0)


def test_deterministic_distribution_has_no_variance() -> None:
    distribution = toy_tokenizer().encode(PIXELS).latent_dist
    assert torch.equal(distribution.sample(), distribution.mode())
    assert torch.equal(distribution.mean, distribution.mode())
    assert not distribution.var.any() and not distribution.std.any()
    assert torch.equal(distribution.logvar, torch.full_like(distribution.mean, -30.0))


def test_variational_distribution() -> None:
    encoded = toy_tokenizer(variational=True).encode(PIXELS)
    distribution = encoded.latent_dist
    assert torch.equal(encoded.latent, distribution.mode())
    torch.testing.assert_close(distribution.std, torch.full_like(distribution.mean, np.exp(-1)))
    torch.testing.assert_close(distribution.var, distribution.std**2)
    draws = [distribution.sample(torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    deviation = (draws[0] - distribution.mean) / distribution.std
    # 2304 standard normals: mean within 5 standard errors of 0, variance within 5 of 1.
    assert abs(deviation.mean().item()) < 5 / deviation.numel() ** 0.5
    assert abs(deviation.var().item() - 1) < 5 * (2 / deviation.numel()) ** 0.5


def test_codes() -> None:
    tokenizer = toy_tokenizer(codes=True)
    indices = tokenizer.encode(PIXELS).indices
    assert indices is not None and indices.shape == (2, 1, 4, 6) and indices.dtype == torch.int64
    expected = torch.nn.functional.avg_pool2d(PIXELS.mean(1, keepdim=True), PATCH) > 0
    assert torch.equal(indices, expected.long())
    sample = tokenizer.decode_indices(indices).sample
    torch.testing.assert_close(
        sample.sign(),
        expected.repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1) * 2.0 - 1,
    )
    assert "codes" in tokenizer.capabilities


def test_normalised_latents_round_trip() -> None:
    tokenizer = toy_tokenizer()
    assert tokenizer.config is not None
    mean = tuple(float(i) for i in range(WIDTH))
    std = tuple(1.0 + i for i in range(WIDTH))
    tokenizer.config = tokenizer.config.model_copy(
        update={"latents_mean": mean, "latents_std": std, "scaling_factor": 0.5}
    )
    normal = tokenizer.encode_normalized(PIXELS)
    latent = tokenizer.encode(PIXELS).latent
    torch.testing.assert_close(normal[:, 3], (latent[:, 3] - 3) / 4 * 0.5)
    torch.testing.assert_close(tokenizer.decode_normalized(normal).sample, PIXELS, atol=1e-4, rtol=0)


def test_no_statistics_is_said() -> None:
    with pytest.raises(UsageError, match="no latent statistics"):
        toy_tokenizer().encode_normalized(PIXELS)


def test_features_and_taps() -> None:
    features = toy_tokenizer().features(PIXELS, layers=[0])
    assert isinstance(features, Features)
    assert features.cls.shape == (2, 1, WIDTH)
    assert features["global"].layers[0].shape == (2, 1, 24, WIDTH)


def test_embeddings_are_the_exported_modules() -> None:
    tokenizer = toy_tokenizer()
    image = tokenizer.embed_image(PIXELS)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(2))
    assert tokenizer.embed_text(["a", "bb"]).shape == (2, 5)
    assert tokenizer.capabilities == {"encode", "decode", "embed_image", "embed_text"}
    with pytest.raises(UsageError, match="embed_text: this tokenizer has decode, encode"):
        toy_tokenizer(text=False).embed_text(["a"])


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "use preprocess"),
        (torch.zeros(3, 16, 16), r"expected pixels \(B, 3, H, W\)"),
        (torch.zeros(1, 1, 16, 16), r"got \(1, 1, 16, 16\)"),
        (torch.zeros(1, 3, 16, 18), "multiples of 4, got 16 x 18"),
        (torch.zeros(1, 3, 0, 16), "multiples of 4"),
        (torch.full((1, 3, 16, 16), 255.0), "not ImageNet-normalised"),
        (torch.full((1, 3, 16, 16), torch.nan), "beyond \\+-10 or NaN"),
    ],
)
def test_wrong_pixels_are_refused(pixels: torch.Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        toy_tokenizer().encode(pixels)


def test_wrong_latents_are_refused() -> None:
    tokenizer = toy_tokenizer()
    with pytest.raises(UsageError, match=rf"\(B, {WIDTH}, h, w\)"):
        tokenizer.decode(torch.zeros(1, 2, 4, 4))
    with pytest.raises(UsageError, match="decode_indices"):
        tokenizer.decode(torch.zeros(1, WIDTH, 4, 4, dtype=torch.int64))
    with pytest.raises(UsageError, match="continuous"):
        tokenizer.decode_indices(torch.zeros(1, 1, 4, 4, dtype=torch.int64))


def test_preprocess_and_postprocess() -> None:
    tokenizer = toy_tokenizer()
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    pixels = tokenizer.preprocess([image, image.resize((40, 20)), image.convert("L")])
    assert pixels.shape == (3, 3, 16, 16) and pixels.dtype == torch.float32
    unit = np.asarray(image, dtype=np.float64).transpose(2, 0, 1) / 255
    mean, std = (np.array(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    np.testing.assert_allclose(pixels[0].numpy(), (unit - mean) / std, atol=1e-5)
    assert np.array_equal(np.asarray(tokenizer.postprocess(pixels)[0]), np.asarray(image))
    assert torch.equal(tokenizer.preprocess(image), pixels[:1])


def test_preprocess_of_unusual_modes() -> None:
    tokenizer = toy_tokenizer()
    clear = Image.new("RGBA", (20, 20), (10, 20, 30, 0))
    deep = Image.fromarray(np.full((20, 20), 65535, dtype=np.uint16))
    palette = Image.new("P", (20, 20), 0)
    white = tokenizer.preprocess(Image.new("RGB", (20, 20), "white"))
    assert torch.equal(tokenizer.preprocess(clear), white)
    assert torch.equal(tokenizer.preprocess(deep), white)
    assert tokenizer.preprocess([palette, Image.new("CMYK", (20, 20))]).shape == (2, 3, 16, 16)
    turned = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))
    upright = tokenizer.preprocess(turned.rotate(180))
    exif = turned.getexif()
    exif[0x0112] = 3
    turned.info["exif"] = exif.tobytes()
    assert torch.equal(tokenizer.preprocess(turned), upright)


def test_preprocess_refuses_what_the_loader_refuses() -> None:
    good = Image.new("RGB", (20, 20))
    floats = Image.fromarray(np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20))
    with pytest.raises(UsageError, match=r"preprocess: image 1: floating-point pixels"):
        toy_tokenizer().preprocess([good, floats])
    with pytest.raises(UsageError, match=r"image 0: too small \(4x20"):
        toy_tokenizer().preprocess(Image.new("RGB", (4, 20)))
