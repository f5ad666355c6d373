"""Folders that diffusers' classes wrote: latents and images are those of the class itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from tests.agreement import Agreement
from tests.plugins.diffusers.making import dc, drawn, flux2, kl, rae, tiny, vq
from vtp_core import load
from vtp_core.cli.main import main
from vtp_core.errors import CheckpointError
from vtp_core.pixels import convert
from vtp_core.tokenizer import Tokenizer

FILE = "diffusion_pytorch_model.safetensors"


def pixels(side: int = 8) -> Tensor:
    drawn = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    return convert(drawn, (0.0, 1.0), "imagenet")


def encoded(model: Any, images: Tensor) -> Tensor:
    found = model.encode(images)
    if hasattr(found, "latent_dist"):
        return found.latent_dist.mode()
    return found.latents if hasattr(found, "latents") else found.latent


def compared(model: Any, tokenizer: Tokenizer, agreement: Agreement) -> None:
    """Latents and images of the class called by hand, and of the tokenizer."""
    images = convert(pixels(), "imagenet", tokenizer.decoder.value_range)
    latent = raw = encoded(model, images)
    if tokenizer.bottleneck.codebook_sizes:
        latent, _, (_, _, codes) = model.quantize(raw)
        assert torch.equal(tokenizer.encode(pixels()).indices.flatten(), codes)
    elif hasattr(model, "bn"):
        latent = F.pixel_unshuffle(raw, 2)
    found = tokenizer.encode(pixels())
    agreement(found.latent, latent)
    if hasattr(model.encode(images), "latent_dist"):
        logvar = model.encode(images).latent_dist.logvar
        agreement(found.latent_dist.logvar, F.pixel_unshuffle(logvar, 2) if hasattr(model, "bn") else logvar)
    image = convert(model.decode(raw).sample, tokenizer.decoder.value_range, "imagenet")
    agreement(tokenizer.decode(found.latent).sample, image)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(kl, marks=pytest.mark.agrees("AutoencoderKL: latents, images", "diffusers", 0)),
        pytest.param(flux2, marks=pytest.mark.agrees("AutoencoderKLFlux2: latents, images", "diffusers", 0)),
        pytest.param(vq, marks=pytest.mark.agrees("VQModel: latents, codes, images", "diffusers", 0)),
        pytest.param(dc, marks=pytest.mark.agrees("AutoencoderDC: latents, images", "diffusers", 0)),
        pytest.param(tiny, marks=pytest.mark.agrees("AutoencoderTiny: latents, images", "diffusers", 0)),
        pytest.param(rae, marks=pytest.mark.agrees("AutoencoderRAE: latents, images", "diffusers", 0)),
    ],
)
def test_the_class_does_the_forward(make: Callable[[], Any], tmp_path: Path, agreement: Agreement) -> None:
    model = drawn(make)
    model.save_pretrained(tmp_path / "theirs")
    tokenizer = load(tmp_path / "theirs")
    assert not tokenizer.training
    compared(model, tokenizer, agreement)
    # As our own artefact it is the same tokenizer.
    again = load(tokenizer.save(tmp_path / "own"))
    assert torch.equal(again.encode(pixels()).latent, tokenizer.encode(pixels()).latent)
    assert again.config.latents_mean == tokenizer.config.latents_mean
    half = load(tmp_path / "theirs", dtype="bfloat16").encode(pixels().bfloat16())
    assert half.latent.dtype == torch.bfloat16
    if half.indices is None:  # another code may be nearest
        scale = float(tokenizer.encode(pixels()).latent.abs().max())
        expected = tokenizer.encode(pixels()).latent
        torch.testing.assert_close(half.latent.float(), expected, atol=0.1 * scale, rtol=0)


@pytest.mark.slow
def test_scaling_and_shift_of_the_settings_normalise_latents(tmp_path: Path) -> None:
    """z * 0.18215 (SD), (z - shift) * scaling (SD3, FLUX), (z - mean) / std * scaling (SDXL's playground)."""
    mean, std = [0.5, -1.0, 0.0, 2.0], [1.0, 2.0, 0.5, 4.0]
    sdxl = {"scaling_factor": 0.5, "latents_mean": mean, "latents_std": std}
    for number, (settings, shift, factor) in enumerate(
        [
            ({"scaling_factor": 0.18215}, [0.0] * 4, [0.18215] * 4),
            ({"scaling_factor": 1.5305, "shift_factor": 0.0609}, [0.0609] * 4, [1.5305] * 4),
            (sdxl, mean, [0.5 / value for value in std]),
        ]
    ):
        model = drawn(lambda settings=settings: kl(**settings))
        model.save_pretrained(tmp_path / str(number))
        tokenizer = load(tmp_path / str(number))
        z = encoded(model, convert(pixels(), "imagenet", (-1.0, 1.0)))
        expected = (z - torch.tensor(shift).view(-1, 1, 1)) * torch.tensor(factor).view(-1, 1, 1)
        torch.testing.assert_close(tokenizer.encode_normalized(pixels()), expected)
        torch.testing.assert_close(
            tokenizer.decode_normalized(expected).sample, tokenizer.decode(z).sample, atol=1e-5, rtol=0
        )


@pytest.mark.slow
def test_earlier_names_half_precision_shards_and_pipelines(tmp_path: Path) -> None:
    model = drawn(kl)
    model.save_pretrained(tmp_path / "new")
    expected = load(tmp_path / "new").encode(pixels()).latent
    state, config = load_file(tmp_path / "new" / FILE), (tmp_path / "new/config.json").read_text()

    def folder(name: str) -> Path:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(config)
        return tmp_path / name

    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(name: str) -> str:
        for new, earlier in old.items():
            name = name.replace(f".{new}.", f".{earlier}.")
        return name

    earlier = {renamed(name): tensor for name, tensor in state.items()}
    assert len(earlier.keys() - state.keys()) == 16
    save_file(earlier, folder("old") / FILE)
    torch.save(state, folder("bin") / "diffusion_pytorch_model.bin")
    model.save_pretrained(folder("shards"), max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    save_file(state, folder("pipeline/vae") / FILE)
    (tmp_path / "pipeline/model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    save_file(state, folder("variant") / "diffusion_pytorch_model.fp16.safetensors")
    for name in ("old", "bin", "shards", "pipeline", "variant"):
        assert torch.equal(load(tmp_path / name).encode(pixels()).latent, expected), name
    save_file({name: tensor.bfloat16() for name, tensor in state.items()}, folder("bf16") / FILE)
    found = load(tmp_path / "bf16")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.encode(pixels()).latent, expected, atol=0.05, rtol=0.05)


@pytest.mark.slow
@pytest.mark.agrees("AutoencoderKLFlux2: packed, normalised latents", "diffusers", 1e-6)
def test_packed_latents_are_those_of_the_pipeline(tmp_path: Path, agreement: Agreement) -> None:
    from diffusers import Flux2Pipeline

    model = drawn(flux2)
    model.save_pretrained(tmp_path)
    tokenizer = load(tmp_path)
    raw = encoded(model, convert(pixels(), "imagenet", (-1.0, 1.0)))
    packed = Flux2Pipeline._patchify_latents(raw)
    assert torch.equal(tokenizer.encode(pixels()).latent, packed)
    mean, variance = (value.view(1, -1, 1, 1) for value in (model.bn.running_mean, model.bn.running_var))
    agreement(tokenizer.encode_normalized(pixels()), (packed - mean) / (variance + 1e-4).sqrt())
    assert tokenizer.encoder.patch == 4 and tokenizer.latent_channels == 16


@pytest.mark.slow
def test_rae_folders_of_earlier_transformers(tmp_path: Path) -> None:
    """Names of the encoder's layers changed with transformers 5; those of MAE lost a level too."""
    names = {
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
        "attention.o_proj": "attention.output.dense",
    }
    mae = {**names, "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    for kind, old in (("dinov2", names), ("mae", {**mae, "encoder.layers.": "encoder.encoder.layer."})):
        model = drawn(lambda kind=kind: rae(kind))
        model.save_pretrained(tmp_path / kind)
        expected = load(tmp_path / kind).encode(pixels()).latent
        state = load_file(tmp_path / kind / FILE)
        for new, earlier in old.items():
            moved = {n: n.replace(new, earlier) for n in state if n.startswith("encoder.") and new in n}
            assert moved
            state = {moved.get(name, name): tensor for name, tensor in state.items()}
        save_file(state, tmp_path / kind / FILE)
        assert torch.equal(load(tmp_path / kind).encode(pixels()).latent, expected)
        if kind == "mae":
            state["encoder.layers.0.mlp.fc1.bias"] = state[
                "encoder.encoder.layer.0.intermediate.dense.bias"
            ].clone()
            save_file(state, tmp_path / kind / FILE)
            with pytest.raises(CheckpointError, match="are one weight"):
                load(tmp_path / kind)


@pytest.mark.slow
def test_vtp_eval_takes_the_folder(tmp_path: Path) -> None:
    drawn(kl).save_pretrained(tmp_path / "vae")
    table = '{use = "samples"}', '{use = "reconstruction"}'
    arguments = ["--source", table[0], "--evaluator", table[1], "--limit", "4", "--device", "cpu", "--json"]
    done = CliRunner().invoke(main, ["eval", str(tmp_path / "vae"), *arguments])
    assert done.exit_code == 0, done.output
    assert "256 px" in done.output and "psnr" in done.output
