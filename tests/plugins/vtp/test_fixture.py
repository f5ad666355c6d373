"""Agreement with numbers of the published inference code; tolerances of the fixture's README."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.agreement import Agreement
from vtp_core import load
from vtp_plugins.vtp import VTPModel

FOLDER = Path(__file__).parents[2] / "data" / "vtp_tiny_a"


def every_output(model: VTPModel, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """All that the fixture calls ``out.*``, through the published names."""
    found: dict[str, Tensor] = {}
    for j in (0, 1):
        image = given[f"in.image.{j}"]
        found[f"latents.{j}"] = model.get_reconstruction_latents(image)
        found[f"reconstruction.{j}"] = model.get_latents_decoded_images(found[f"latents.{j}"])
        found[f"clip_image.{j}"] = model.get_clip_image_feature(image, normalize=True)
        found[f"clip_image_raw.{j}"] = model.get_clip_image_feature(image, normalize=False)
        for kind, use in (("full", False), ("bottleneck", True)):
            last = model.get_last_layer_feature(image, use_bottleneck=use)
            found[f"last.{kind}.cls.{j}"] = last["cls_token"]
            found[f"last.{kind}.patch.{j}"] = last["patch_tokens"]
        for kind, norm in (("raw", False), ("normed", True)):
            layers = model.get_intermediate_layers_feature(image, n=3, return_class_token=True, norm=norm)
            for block, (patches, cls) in enumerate(layers):
                found[f"block{block}.{kind}.patch.{j}"], found[f"block{block}.{kind}.cls.{j}"] = patches, cls
        rope = model.trunk.rope_embed((image.shape[2] // 16, image.shape[3] // 16), image)
        found[f"rope_cos.{j}"], found[f"rope_sin.{j}"] = rope
    found["decoded"] = model.get_latents_decoded_images(given["in.latents"])
    found["clip_text"] = model.get_clip_text_feature(given["in.text_tokens"], normalize=True)
    found["clip_text_raw"] = model.get_clip_text_feature(given["in.text_tokens"], normalize=False)
    found["logit_scale_exp"] = model.logit_scale.exp()
    found["logits_per_image"] = model.get_clip_logits(given["in.image.0"], given["in.text_tokens"])[0]

    image, mask = given["in.image.0"].unsqueeze(1), given["in.mask"].unsqueeze(1)
    (masked,) = model.trunk([image], [mask], layers=(2,))
    assert masked.cls is not None
    found["masked.cls"], found["masked.patch"] = masked.cls[:, 0], masked.patches[:, 0]
    found["masked.prenorm"] = masked.layers[2][:, 0]  # the taps hold no class token
    squeeze = model.bottleneck._project
    found["masked.bottleneck.cls"] = squeeze(found["masked.cls"])
    found["masked.bottleneck.patch"] = squeeze(found["masked.patch"])
    return found


def part(name: str) -> str:
    """The row of the agreement table that an output belongs to."""
    if name.startswith(("clip_text", "logit_scale")):
        return "VTP: text embeddings"
    if name.startswith("rope"):
        return "VTP: rotary tables in bfloat16"
    if name.startswith(("reconstruction", "decoded", "block", "masked", "logits")):
        return "VTP: decoded images, blocks, masked forward, logits"
    return "VTP: latents, last tokens, image embeddings"


@pytest.fixture(scope="module")
def given() -> dict[str, Tensor]:
    return load_file(FOLDER / "io.safetensors")


@pytest.mark.agrees("VTP: text embeddings", "MiniMax-AI/VTP", 1e-5, version="fixture vtp_tiny_a")
@pytest.mark.agrees(
    "VTP: latents, last tokens, image embeddings", "MiniMax-AI/VTP", 2e-3, version="fixture vtp_tiny_a"
)
@pytest.mark.agrees(
    "VTP: decoded images, blocks, masked forward, logits",
    "MiniMax-AI/VTP",
    1e-2,
    version="fixture vtp_tiny_a",
)
@pytest.mark.agrees(  # one step of bfloat16
    "VTP: rotary tables in bfloat16", "MiniMax-AI/VTP", 0.00390625, version="fixture vtp_tiny_a"
)
@torch.no_grad()
def test_as_published(given: dict[str, Tensor], agreement: Agreement) -> None:
    model = load(FOLDER)
    assert isinstance(model, VTPModel) and not any(p.requires_grad for p in model.parameters())
    found = every_output(model, given)
    names = {key.removeprefix("out.") for key in given if key.startswith("out.")}
    assert names == found.keys()
    for name, value in found.items():
        expected = given[f"out.{name}"]
        if name == "masked.prenorm":
            expected = expected[:, 1:]
        agreement(value, expected, part(name))
        assert (value - expected).float().norm() <= 1e-3 * expected.float().norm(), name


@pytest.mark.agrees(
    "VTP: vision outputs with float32 positions", "MiniMax-AI/VTP", 1e-4, version="fixture vtp_tiny_a"
)
@torch.no_grad()
def test_with_float32_positions(given: dict[str, Tensor], agreement: Agreement) -> None:
    found = every_output(VTPModel.from_pretrained(FOLDER, rope_dtype="float32"), given)
    names = {key.removeprefix("out_ropefp32.") for key in given if key.startswith("out_ropefp32.")}
    assert len(names) == 20 and names - found.keys() == {"periods"}
    for name in names & found.keys():
        agreement(found[name], given[f"out_ropefp32.{name}"])


def test_the_file_comes_back_bit_for_bit(tmp_path: Path) -> None:
    original = load_file(FOLDER / "model.safetensors")
    for rope_dtype in ("bfloat16", "float32"):
        model = VTPModel.from_pretrained(FOLDER, rope_dtype=rope_dtype)
        model.double().float().save_pretrained(tmp_path / rope_dtype)
        written = load_file(tmp_path / rope_dtype / "model.safetensors")
        assert written.keys() == original.keys()
        for name, value in original.items():
            assert written[name].dtype == value.dtype and torch.equal(written[name], value), name
    plain, exact = (load(tmp_path / name) for name in ("bfloat16", "float32"))
    assert isinstance(plain, VTPModel) and isinstance(exact, VTPModel)
    assert plain.config.rope_dtype == "bfloat16" and exact.config.rope_dtype == "float32"


def test_bfloat16_weights_move_the_latents_little(given: dict[str, Tensor]) -> None:
    model = VTPModel.from_pretrained(FOLDER, dtype=torch.bfloat16)
    latents = model.get_reconstruction_latents(given["in.image.0"].bfloat16())
    assert latents.dtype == torch.bfloat16
    error = (latents.float() - given["out.latents.0"]).norm() / given["out.latents.0"].norm()
    assert 1e-4 < error < 5e-2


def test_our_own_artefact_of_it_is_the_same_model(given: dict[str, Tensor], tmp_path: Path) -> None:
    model = load(FOLDER)
    assert isinstance(model, VTPModel)
    model.save(tmp_path / "own")
    own = load(tmp_path / "own")
    assert not isinstance(own, VTPModel)
    image = given["in.image.1"]
    assert torch.equal(own.encode(image).latent, model.get_reconstruction_latents(image))
    assert torch.equal(own.embed_image(image), model.get_clip_image_feature(image))
    assert torch.equal(own.exports["logit_scale"]["logit_scale"], model.logit_scale)

    own.save(tmp_path / "own again")
    from vtp_plugins.vtp.format import VtpFormat

    VtpFormat().write(own, tmp_path / "published again")
    written = load_file(tmp_path / "published again" / "model.safetensors")
    for name, value in load_file(FOLDER / "model.safetensors").items():
        assert torch.equal(written[name], value), name
