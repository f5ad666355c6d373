"""Agreement with numbers of the published VTP inference code (random weights, see the fixture's README)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vtp_core.features import Features
from vtp_core.ops import attention_choice
from vtp_core.parameters import Dims
from vtp_plugins.linear.bottleneck import LinearBottleneck
from vtp_plugins.linear.config import LinearConfig
from vtp_plugins.vit.config import VitDecoderConfig, VitEncoderConfig
from vtp_plugins.vit.decoder import VitDecoder
from vtp_plugins.vit.encoder import VitEncoder

FOLDER = Path(__file__).resolve().parents[2] / "data" / "vtp_tiny_a"
DIMS = Dims(width=64, patch=16, depth=3, has_cls=True, channels=16)


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Keys below `prefix` under our names."""
    return {
        key.removeprefix(prefix).replace("blocks.", "block.", 1): value
        for key, value in state.items()
        if key.startswith(prefix)
    }


class Model:
    def __init__(self, rope_dtype: str, attention: str) -> None:
        state = load_file(FOLDER / "model.safetensors")
        saved = rope_dtype == "bfloat16"
        sizes = {"width": 64, "heads": 2, "rope_dtype": rope_dtype, "rope_periods_saved": saved}
        self.encoder = VitEncoder(VitEncoderConfig(depth=3, **sizes)).eval()
        self.decoder = VitDecoder(VitDecoderConfig(depth=2, **sizes), DIMS).eval()
        self.bottleneck = LinearBottleneck(LinearConfig(channels=16), DIMS).eval()
        trunk, decoder = part(state, "trunk."), part(state, "pixel_decoder.")
        self.bottleneck.load_state_dict({"proj.weight": trunk.pop("feature_bottleneck.weight")})
        if not saved:
            del trunk["rope_embed.periods"], decoder["rope_embed.periods"]
        self.encoder.load_state_dict(trunk)
        self.decoder.load_state_dict(decoder)
        for network in (self.encoder, self.decoder):
            network.use_attention(attention_choice(attention))

    @torch.no_grad()
    def outputs(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the fixture calls `out.*`, both images in one packed pass."""
        sets = [given[f"in.image.{j}"][:, None] for j in (0, 1)]
        found: dict[str, Tensor] = {}
        for j, tokens in enumerate(self.encoder(sets, [None, None])):
            latent = self.bottleneck(Features(crops={"global": tokens}))
            found[f"last.full.cls.{j}"] = tokens.cls[:, 0]
            found[f"last.full.patch.{j}"] = tokens.patches[:, 0]
            found[f"last.bottleneck.cls.{j}"] = latent["global"].cls[:, 0]
            found[f"last.bottleneck.patch.{j}"] = latent["global"].patches[:, 0]
            found[f"latents.{j}"] = latent.z
            found[f"reconstruction.{j}"] = self.decoder(latent.z)
            for kind, normed in (("raw", False), ("normed", True)):
                for block, out in self.encoder.intermediate(sets[j][:, 0], (0, 1, 2), normed=normed).items():
                    found[f"block{block}.{kind}.cls.{j}"] = out[:, 0]
                    found[f"block{block}.{kind}.patch.{j}"] = out[:, 1:]
        found["decoded"] = self.decoder(given["in.latents"])
        [masked] = self.encoder([sets[0]], [given["in.mask"][:, None]])
        latent = self.bottleneck(Features(crops={"global": masked}))
        found["masked.cls"], found["masked.patch"] = masked.cls[:, 0], masked.patches[:, 0]
        found["masked.bottleneck.cls"] = latent["global"].cls[:, 0]
        found["masked.bottleneck.patch"] = latent["global"].patches[:, 0]
        return found


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def given() -> dict[str, Tensor]:
    return load_file(FOLDER / "io.safetensors")


@pytest.mark.parametrize("attention", ["sdpa", "matmul", "reference"])
def test_float32_positions(given: dict[str, Tensor], attention: str) -> None:
    found = Model("float32", attention).outputs(given)
    compared = 0
    for name, value in found.items():
        expected = given.get(f"out_ropefp32.{name}")
        if expected is not None:
            torch.testing.assert_close(value, expected, atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
            compared += 1
    assert compared == 11


@pytest.mark.parametrize("attention", ["sdpa", "matmul"])
def test_bfloat16_positions_as_published(given: dict[str, Tensor], attention: str) -> None:
    found = Model("bfloat16", attention).outputs(given)
    expected = {
        key.removeprefix("out."): value
        for key, value in given.items()
        if key.startswith("out.") and key.removeprefix("out.") in found
    }
    assert len(expected) == len(found)
    for name, value in expected.items():
        assert relative_error(found[name], value) < 1e-3, name
        if attention == "sdpa":
            atol = 1e-2 if name.startswith(("reconstruction", "decoded", "block")) else 2e-3
            torch.testing.assert_close(
                found[name], value, atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_the_wrong_dtype_of_positions_is_seen(given: dict[str, Tensor]) -> None:
    found = Model("float32", "sdpa").outputs(given)
    assert relative_error(found["latents.0"], given["out.latents.0"]) > 1.5e-3


@pytest.mark.parametrize(("dtype", "prefix"), [("bfloat16", "out"), ("float32", "out_ropefp32")])
def test_tables(given: dict[str, Tensor], dtype: str, prefix: str) -> None:
    rope = Model(dtype, "sdpa").encoder.rope_embed
    for j in (0, 1):
        height, width = given[f"in.image.{j}"].shape[-2:]
        tables = rope((height // 16, width // 16), given["in.image.0"])
        tolerance = {"atol": 0.0, "rtol": 0.0} if dtype == "bfloat16" else {"atol": 1e-6, "rtol": 1e-6}
        torch.testing.assert_close(tables.cos, given[f"{prefix}.rope_cos.{j}"], **tolerance)
        torch.testing.assert_close(tables.sin, given[f"{prefix}.rope_sin.{j}"], **tolerance)


def test_drawn_periods_are_the_published_ones() -> None:
    encoder = VitEncoder(
        VitEncoderConfig(width=64, depth=1, heads=2, rope_dtype="bfloat16", rope_periods_saved=True)
    )
    stored = load_file(FOLDER / "model.safetensors")["trunk.rope_embed.periods"]
    assert torch.equal(encoder.state_dict()["rope_embed.periods"], stored)
