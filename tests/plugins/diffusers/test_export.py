"""Our tokenizers as models of diffusers: its own AutoencoderKL, and AutoencoderVTP in a pipeline's slot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor

import vtp_core
from tests.agreement import Agreement
from tests.plugins.diffusers import documented
from tests.plugins.diffusers.making import dc, drawn, flux2, kl, rae, tiny, vq
from tests.plugins.titok.published import written
from vtp_core import load
from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.config import ArtefactConfig
from vtp_core.artefact.fingerprint import fingerprint, name_of, require_same
from vtp_core.cli.main import main
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.pixels import SIGNED, convert
from vtp_core.plugins import load_plugins
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.diffusers import AutoencoderVTP

pytestmark = pytest.mark.slow  # importing diffusers takes seconds
FILE = "diffusion_pytorch_model.safetensors"
STATISTICS = {"latents_mean": (0.5, -1.0, 0.0, 2.0), "latents_std": (1.0, 2.0, 0.5, 4.0)}


def cnn(*, width: int = 8, value_range: Any = (-1.0, 1.0), decoded: Any = "imagenet") -> Tokenizer:
    """`cnn`, `kl`, `cnn` with weights that are not initial ones, attention at one level, and statistics."""
    shape = {"use": "cnn", "channels": 32, "multipliers": [1, 2], "residual_blocks": 1, "attention": [2]}
    config = ArtefactConfig(
        vtp_version=vtp_core.__version__,
        encoder={**shape, "width": width, "value_range": value_range},
        bottleneck={"use": "kl", "channels": 4},
        decoder={**shape, "value_range": decoded},
        image_size=16,
        scaling_factor=0.5,
        **STATISTICS,
    )
    torch.manual_seed(0)
    found = assemble(config, load_plugins())
    for weight in found.parameters():
        if weight.ndim == 1:
            weight.add_(0.2 * torch.randn_like(weight))
    found.bottleneck.moments.weight.normal_(std=0.1)
    found.decoder.conv_out.weight.mul_(0.3)  # images of about the range of pixels
    return found


def images(side: int = 16) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def export(tokenizer: Tokenizer, folder: Path) -> Path:
    """By the command, from an artefact."""
    own = tokenizer.save(folder / "own")
    done = CliRunner().invoke(main, ["export", str(own), str(folder / "out"), "--format", "diffusers"])
    assert done.exit_code == 0, done.output
    return folder / "out"


@pytest.mark.agrees("export of `cnn` and `kl` as AutoencoderKL", "diffusers", 1e-5)
@pytest.mark.parametrize(("width", "decoded"), [(8, "imagenet"), (12, (0.0, 1.0))])
def test_cnn_and_kl_become_autoencoder_kl(
    width: int, decoded: Any, tmp_path: Path, agreement: Agreement
) -> None:
    tokenizer = cnn(width=width, decoded=decoded)
    folder = export(tokenizer, tmp_path)
    model, info = diffusers.AutoencoderKL.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ours = tokenizer.encode(convert(images(), SIGNED, "imagenet"))
    theirs = model.encode(images()).latent_dist
    agreement(ours.latent, theirs.mode())
    agreement(ours.latent_dist.logvar, theirs.logvar)
    agreement(
        convert(tokenizer.decode(ours.latent).sample, "imagenet", SIGNED), model.decode(ours.latent).sample
    )
    assert tuple(model.config.latents_mean) == STATISTICS["latents_mean"]
    assert tuple(model.config.latents_std) == STATISTICS["latents_std"]
    assert model.config.scaling_factor == 0.5
    back = load(folder)
    normalized = tokenizer.encode_normalized(convert(images(), SIGNED, "imagenet"))
    torch.testing.assert_close(
        back.encode_normalized(convert(images(), SIGNED, "imagenet")), normalized, atol=2e-5, rtol=0
    )


def test_an_encoder_that_pads_with_imagenets_mean_is_exact_inside(tmp_path: Path) -> None:
    """Without attention and group norms that spread the border: the first convolution alone shows it."""
    tokenizer = cnn(value_range="imagenet")
    with pytest.warns(UserWarning, match="latents at the border differ"):
        from vtp_plugins.diffusers.format import DiffusersFormat

        DiffusersFormat().write(tokenizer, tmp_path / "kl")
    model = diffusers.AutoencoderKL.from_pretrained(tmp_path / "kl")
    own = tokenizer.encoder.conv_in(convert(images(), SIGNED, "imagenet"))
    theirs = model.encoder.conv_in(images())
    torch.testing.assert_close(theirs[..., 1:-1, 1:-1], own[..., 1:-1, 1:-1], atol=1e-5, rtol=0)
    assert not torch.allclose(theirs, own, atol=1e-3)
    z = torch.randn(1, 4, 4, 4)
    expected = convert(tokenizer.decode(z).sample, "imagenet", SIGNED)
    torch.testing.assert_close(model.decode(z).sample, expected, atol=1e-5, rtol=0)
    exact = AutoencoderVTP.from_tokenizer(tokenizer)
    latent = tokenizer.encode(convert(images(), SIGNED, "imagenet")).latent
    torch.testing.assert_close(exact.encode(images()).latent_dist.mode(), latent)


@pytest.mark.parametrize("make", [kl, flux2, vq, dc, tiny, rae])
def test_what_came_from_diffusers_goes_back(make: Callable[[], Any], tmp_path: Path) -> None:
    model = drawn(make)
    model.save_pretrained(tmp_path / "theirs")
    done = CliRunner().invoke(
        main, ["export", str(tmp_path / "theirs"), str(tmp_path / "back"), "--format", "diffusers"]
    )
    assert done.exit_code == 0, done.output
    old, new = (load_file(tmp_path / name / FILE) for name in ("theirs", "back"))
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        torch.testing.assert_close(new[name], tensor, msg=name)
    again, info = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for key, value in model.config.items():
        if not key.startswith("_"):
            expected, found = json.loads(json.dumps([value, again.config.get(key)]))
            assert found == expected, key


@pytest.fixture(scope="module")
def nano() -> Tokenizer:
    return load("vtp-nano")


def test_nano_as_a_model_of_diffusers(nano: Tokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done = CliRunner().invoke(main, ["export", "vtp-nano", str(folder), "--format", "diffusers"])
    assert done.exit_code == 0, done.output
    assert "left out" in done.output
    vae = AutoencoderVTP.from_pretrained(folder)
    assert not vae.training
    x = images(64)
    pixels = convert(x, SIGNED, "imagenet")
    posterior = vae.encode(x).latent_dist
    assert torch.equal(posterior.mode(), nano.encode(pixels).latent)
    assert torch.equal(posterior.sample(), posterior.mode())
    decoded = vae.decode(posterior.mode()).sample
    torch.testing.assert_close(decoded, convert(nano.decode(posterior.mode()).sample, "imagenet", SIGNED))
    torch.testing.assert_close(vae(x).sample, decoded)
    config, stated = vae.config, nano.config
    assert tuple(config.latents_mean) == stated.latents_mean
    assert tuple(config.latents_std) == stated.latents_std
    assert (config.scaling_factor, config.shift_factor) == (stated.scaling_factor, 0)
    assert 2 ** (len(config.block_out_channels) - 1) == nano.encoder.patch
    assert torch.equal(vae.encode(x, return_dict=False)[0].mode(), posterior.mode())
    vae.enable_slicing()
    torch.testing.assert_close(vae.decode(posterior.mode(), return_dict=False)[0], decoded)
    torch.testing.assert_close(vae.encode(x).latent_dist.mode(), posterior.mode())
    # Saved by diffusers, read by diffusers and by us.
    vae.save_pretrained(tmp_path / "saved")
    again = AutoencoderVTP.from_pretrained(tmp_path / "saved", torch_dtype=torch.bfloat16)
    assert again.dtype == torch.bfloat16 and again.decode(posterior.mode().bfloat16()).sample.isfinite().all()
    assert torch.equal(load(tmp_path / "saved").encode(pixels).latent, posterior.mode())
    assert torch.equal(vae.tokenizer.encode(pixels).latent, posterior.mode())


def test_normalized_latents(nano: Tokenizer, tmp_path: Path) -> None:
    vae = AutoencoderVTP.from_tokenizer(nano, normalize_latents=True)
    x = images(64)
    pixels = convert(x, SIGNED, "imagenet")
    z = vae.encode(x).latent_dist.mode()
    torch.testing.assert_close(z, nano.encode_normalized(pixels))
    torch.testing.assert_close(
        convert(vae.decode(z).sample, SIGNED, "imagenet"), nano.decode_normalized(z).sample, atol=1e-5, rtol=0
    )
    assert vae.config.latents_mean is None and vae.config.scaling_factor == 1
    vae.save_pretrained(tmp_path)
    assert torch.equal(AutoencoderVTP.from_pretrained(tmp_path).encode(x).latent_dist.mode(), z)
    gaussian = AutoencoderVTP.from_tokenizer(cnn(), normalize_latents=True).encode(images()).latent_dist
    plain = cnn().encode(convert(images(), SIGNED, "imagenet")).latent_dist
    factor = 0.5 / torch.tensor(STATISTICS["latents_std"]).view(-1, 1, 1)
    torch.testing.assert_close(gaussian.std, plain.std * factor)


def test_strips_of_a_convolutional_network_change_nothing() -> None:
    vae = AutoencoderVTP.from_tokenizer(cnn())
    large = images(48)
    whole = vae.encode(large).latent_dist
    decoded = vae.decode(whole.mode()).sample
    vae.enable_tiling()
    vae.encoder.strip_rows = vae.decoder.strip_rows = 8
    torch.testing.assert_close(vae.encode(large).latent_dist.mean, whole.mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(vae.decode(whole.mode()).sample, decoded, atol=1e-5, rtol=0)
    vae.disable_tiling()
    assert vae.encoder.strip_rows is None
    assert torch.equal(vae.encode(large).latent_dist.mean, whole.mean)


def test_tiles_of_a_transformer(nano: Tokenizer) -> None:
    """Of the training size; they blend without a seam, and a map within one tile is not tiled."""
    vae = AutoencoderVTP.from_tokenizer(nano)
    patch = nano.encoder.patch
    small, large = images(64), images(112)
    vae.enable_tiling()
    assert torch.equal(vae.encode(small).latent_dist.mode(), mode(nano, small))
    tiled = vae.encode(large).latent_dist.mode()
    assert tiled.shape[2:] == (112 // patch,) * 2
    # What one tile covers alone is that tile's.
    alone = 64 // patch - 64 // patch // 4
    for corner in (slice(None, alone), slice(-alone, None)):
        pixels = slice(None, 64) if corner.start is None else slice(-64, None)
        expected = mode(nano, large[..., pixels, pixels])[..., corner, corner]
        torch.testing.assert_close(tiled[..., corner, corner], expected)
    assert vae.decode(tiled).sample.shape == large.shape
    vae.decoder.value_range = SIGNED
    vae.decoder.forward = lambda z: z[:, :3].repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    expected = tiled[:, :3].repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    torch.testing.assert_close(vae.decode(tiled).sample, expected)
    vae.disable_tiling()
    assert torch.equal(vae.encode(large).latent_dist.mode(), mode(nano, large))


def mode(tokenizer: Tokenizer, x: Tensor) -> Tensor:
    return tokenizer.encode(convert(x, SIGNED, "imagenet")).latent


def pipeline(vae: AutoencoderVTP) -> diffusers.DiTPipeline:
    """A real pipeline with a tiny transformer of random weights over the latents of `vae`."""
    torch.manual_seed(0)
    side = vae.config.sample_size // vae.tokenizer.encoder.patch
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        num_layers=1,
        patch_size=1,
        sample_size=side,
        num_embeds_ada_norm=1000,
        norm_num_groups=4,
    )
    scheduler = diffusers.DDIMScheduler()
    return diffusers.DiTPipeline(transformer=transformer, vae=vae, scheduler=scheduler)


def test_in_a_pipeline(nano: Tokenizer, tmp_path: Path) -> None:
    """Its samples are decoded by our networks, before and after the pipeline went through a folder."""
    vae = AutoencoderVTP.from_tokenizer(nano, normalize_latents=True)
    pipe = pipeline(vae)
    pipe.set_progress_bar_config(disable=True)
    seen: list[Tensor] = []
    handle = vae.decoder.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    options = {"class_labels": [1, 2], "num_inference_steps": 2, "output_type": "pt"}
    found = pipe(**options, generator=torch.manual_seed(3)).images
    handle.remove()
    expected = (convert(nano.decode(seen[0]).sample, "imagenet", SIGNED) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(torch.as_tensor(found), expected, atol=1e-5, rtol=0)
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["vae"] == ["vtp_plugins.diffusers", "AutoencoderVTP"]
    again = diffusers.DiTPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.vae, AutoencoderVTP)
    repeated = again(**options, generator=torch.manual_seed(3)).images
    torch.testing.assert_close(torch.as_tensor(repeated), torch.as_tensor(found))
    # The pipeline's folder is a tokenizer here.
    latent = nano.encode(convert(images(64), SIGNED, "imagenet")).latent
    assert torch.equal(load(tmp_path).encode(convert(images(64), SIGNED, "imagenet")).latent, latent)


def test_the_documented_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(compile(documented.lines(), "docs/hand_over.md", "exec"), found)
    assert [image.size for image in found["images"]] == [(64, 64)] * 2
    assert not any(low == high for image in found["images"] for low, high in image.getextrema())


def test_weights_that_were_trained_further_are_another_tokenizer(nano: Tokenizer, tmp_path: Path) -> None:
    own = load(nano.save(tmp_path / "own"))
    old = name_of(own)
    vae = AutoencoderVTP.from_tokenizer(own)
    assert name_of(vae.tokenizer) == old
    with torch.no_grad():
        next(vae.bottleneck.parameters()).add_(0.1)
    assert name_of(vae.tokenizer).fingerprint == fingerprint(vae.tokenizer) != old.fingerprint
    vae.save_pretrained(tmp_path / "vae")
    config = json.loads((tmp_path / "vae/config.json").read_text())
    assert config["artefact"]["fingerprint"] is None
    config["artefact"]["fingerprint"] = old.fingerprint  # as it was written before
    (tmp_path / "vae/config.json").write_text(json.dumps(config))
    for again in (load(tmp_path / "vae"), AutoencoderVTP.from_pretrained(tmp_path / "vae").tokenizer):
        with pytest.raises(CheckpointError, match="makes other latents"):
            require_same("latents", old, name_of(again))


def test_refusals(nano: Tokenizer, tmp_path: Path) -> None:
    vae = AutoencoderVTP.from_tokenizer(nano)
    vae.save_pretrained(tmp_path)
    state = load_file(tmp_path / FILE)
    name = sorted(state)[0]
    save_file({key: value for key, value in state.items() if key != name}, tmp_path / FILE)
    for read in (AutoencoderVTP.from_pretrained, load):
        with pytest.raises(CheckpointError, match="missing"):
            read(tmp_path)
    save_file({**state, name: torch.full_like(state[name], torch.inf)}, tmp_path / FILE)
    for read in (AutoencoderVTP.from_pretrained, load):
        with pytest.raises(CheckpointError, match=f"{name} is not finite"):
            read(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["artefact"]["encoder"]["depth"] = "deep"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="depth"):
        load(tmp_path)
    config["artefact"] |= {"latents_mean": [0.0], "latents_std": [1.0]}
    del config["artefact"]["encoder"]["depth"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    for read in (AutoencoderVTP.from_pretrained, load):
        with pytest.raises(CheckpointError, match="latents_mean has 1 values, the latent"):
            read(tmp_path)
    bare = cnn()
    bare.config = bare.config.model_copy(update={"latents_mean": None, "latents_std": None})
    with pytest.raises(UsageError, match="normalize_latents needs statistics"):
        AutoencoderVTP.from_tokenizer(bare, normalize_latents=True)
    with pytest.raises(UsageError, match="expected a float latent"):
        vae.decode(torch.zeros(1, 3, 4, 4))
    bare.decoder = None
    from vtp_plugins.diffusers.format import DiffusersFormat

    with pytest.raises(UsageError, match="has no decoder"):
        DiffusersFormat().write(bare, tmp_path / "none")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds something other"):
        DiffusersFormat().write(cnn(), tmp_path / "other")


def test_a_pipeline_or_another_model_is_not_replaced(tmp_path: Path) -> None:
    from vtp_plugins.diffusers.format import DiffusersFormat

    text = json.dumps({"_class_name": "UNet2DModel", "_diffusers_version": "0.42.1"})
    for name in ("unet", "pipeline/vae"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(text)
        (tmp_path / name / FILE).write_bytes(b"weights")
    (tmp_path / "pipeline/model_index.json").write_text("{}")
    for name in ("unet", "pipeline"):
        with pytest.raises(UsageError, match="choose another folder"):
            DiffusersFormat().write(cnn(), tmp_path / name)
    assert (tmp_path / "unet" / FILE).exists() and (tmp_path / "pipeline/vae" / FILE).exists()
    DiffusersFormat().write(cnn(), tmp_path / "own")
    DiffusersFormat().write(cnn(), tmp_path / "own")
    (tmp_path / "own/samples").mkdir()
    with pytest.raises(UsageError, match="holds samples, which would be lost"):
        DiffusersFormat().write(cnn(), tmp_path / "own")


def test_the_size_of_latents_without_places(tmp_path: Path) -> None:
    model = load(written(tmp_path, "vae"))
    assert AutoencoderVTP.from_tokenizer(model).config.latent_size == [1, 8]
