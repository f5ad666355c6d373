"""What is no VA-VAE is refused in one line; a pickle with code runs nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.pickled_code import PickledCode
from vtp_core import load
from vtp_core.artefact.assembly import assemble
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.plugins import load_plugins
from vtp_core.testing import tiny_tokenizer
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.cnn.config import CnnDecoderConfig, CnnEncoderConfig
from vtp_plugins.kl.config import KlConfig
from vtp_plugins.pretrained.published import config_of
from vtp_plugins.va_vae.config import SIGNED, Networks
from vtp_plugins.va_vae.format import VaVaeFormat
from vtp_plugins.va_vae.layout import published_tensors

FOLDER = Path(__file__).parents[2] / "data" / "vavae_tiny_a"
State = dict[str, Tensor]


def drop(name: str) -> Callable[[State], None]:
    return lambda state: state.__delitem__(name)


def put(name: str, *shape: int, value: float = 0.0) -> Callable[[State], None]:
    return lambda state: state.__setitem__(name, torch.full(shape, value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("encoder.mid.attn_1.q.bias"), r"missing encoder\.mid\.attn_1\.q\.bias"),
        (drop("decoder.up.4.attn.1.k.weight"), r"missing decoder\.up\.4\.attn\.1\.k\.weight"),
        (drop("encoder.conv_out.weight"), r"missing encoder\.conv_out\.weight; not the tensors of a VA-VAE"),
        (put("quantize.embedding.weight", 4, 4), r"unexpected quantize\.embedding\.weight"),
        (put("decoder.conv_out.bias", 4), r"decoder\.conv_out\.bias is torch\.float32 \[4\]"),
        (put("encoder.norm_out.bias", 32, value=float("nan")), r"encoder\.norm\.bias is not finite"),
        (put("encoder.conv_in.weight", 48, 3, 3, 3), "levels of .* after 48 are not supported"),
        (put("encoder.down.99.block.0.conv1.weight", 32, 32, 3, 3), r"missing encoder\.down\.5"),
    ],
)
def test_tensors_that_do_not_fit(change: Callable[[State], None], message: str, tmp_path: Path) -> None:
    state = load_file(FOLDER / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught:
        load(tmp_path / "model.safetensors")
    assert "\n" not in str(caught.value) and "model.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ch_mult", [1, 1, 2, 2, 4], "ch_mult is .* of different models"),
        ("attn_resolutions", [], "attn_resolutions is"),
        ("attn_type", "none", r"ddconfig\.attn_type"),
        ("double_z", False, "double_z is False"),
    ],
)
def test_a_configuration_of_another_model(key: str, value: object, message: str, tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["model"]["params"]["ddconfig"][key] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        VaVaeFormat().read(folder)


def test_the_owner_s_yaml_is_read(tmp_path: Path) -> None:
    """JSON is YAML; the multiplier is that of the training configuration."""
    folder = shutil.copytree(FOLDER, tmp_path / "model")
    text = (folder / "config.json").read_text().replace('"latent_multiplier": 1.0', '"latent_multiplier": 2')
    (folder / "config.json").unlink()
    (folder / "vavae_f16d32.yaml").write_text(text)
    model = load(folder)
    assert model.config is not None and model.config.scaling_factor == 2.0


def test_other_projects_auto_encoders_are_left_to_their_formats(tmp_path: Path) -> None:
    """diffusers shares the names outside the blocks; a folder of many files is not searched."""
    names = ("encoder.conv_in.weight", "encoder.mid_block.resnets.0.conv1.weight")
    names += ("quant_conv.weight", "post_quant_conv.weight")
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({name: torch.zeros(1) for name in names}, path)
    assert not VaVaeFormat().matches(path) and not VaVaeFormat().matches(tmp_path)
    many = tmp_path / "many"
    many.mkdir()
    shutil.copy(FOLDER / "model.safetensors", many / "model.safetensors")
    assert VaVaeFormat().matches(many)
    for number in range(32):
        (many / f"{number}.pt").touch()
    assert not VaVaeFormat().matches(many) and VaVaeFormat().matches(many / "model.safetensors")


def test_statistics(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    shutil.copy(FOLDER / "model.safetensors", weights)
    model = load(weights)
    assert model.config is not None and model.config.latents_mean is None
    with pytest.raises(UsageError, match="no latent statistics"):
        model.encode_normalized(torch.zeros(1, 3, 16, 16))
    stats = load_file(FOLDER / "latents_stats.safetensors")
    save_file({**stats, "std": stats["std"] * 0}, tmp_path / "latents_stats.safetensors")
    with pytest.raises(CheckpointError, match=r"latents_stats\.safetensors: latents_std"):
        load(weights)
    save_file({"mean": stats["mean"]}, tmp_path / "latents_stats.safetensors")
    with pytest.raises(CheckpointError, match="missing std"):
        load(weights)


def test_a_pickle_with_code_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": {"encoder.conv_in.weight": PickledCode(tmp_path / "executed")}}, path)
    with pytest.raises(CheckpointError, match="no installed format reads this file"):
        load(path)
    assert not (tmp_path / "executed").exists()


def test_a_damaged_file_and_two_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(CheckpointError, match=r"a\.pt: no installed format reads this file"):
        load(path)
    path.unlink()
    for name in ("one.safetensors", "two.safetensors"):
        shutil.copy(FOLDER / "model.safetensors", tmp_path / name)
    assert not VaVaeFormat().matches(tmp_path)
    (tmp_path / "config.json").write_text('{"ckpt_path": "x/two.safetensors", "model": {"params": {}}}')
    assert not VaVaeFormat().matches(tmp_path)
    shutil.copy(FOLDER / "config.json", tmp_path / "config.json")
    text = (tmp_path / "config.json").read_text().replace("model.safetensors", "elsewhere/two.safetensors")
    (tmp_path / "config.json").write_text(text)
    assert load(tmp_path).latent_channels == 16


def small(**changes: object) -> Tokenizer:
    sizes = {"channels": 32, "multipliers": (1, 2), "residual_blocks": 2, "attention": (1, 2)}
    sizes |= {"value_range": SIGNED}
    encoder = CnnEncoderConfig(**{**sizes, "width": 6, **changes})
    networks = Networks(encoder=encoder, bottleneck=KlConfig(channels=3), decoder=CnnDecoderConfig(**sizes))
    return assemble(config_of(networks, 32), load_plugins())


def test_names_where_channels_change() -> None:
    shapes = {name: list(tensor.shape) for name, tensor in published_tensors(small()).items()}
    assert shapes["encoder.down.1.block.0.nin_shortcut.weight"] == [64, 32, 1, 1]
    assert shapes["decoder.up.0.block.0.nin_shortcut.weight"] == [32, 64, 1, 1]
    assert shapes["decoder.up.1.upsample.conv.weight"] == [64, 64, 3, 3]
    assert shapes["decoder.up.0.attn.2.proj_out.weight"] == [32, 32, 1, 1]
    assert "decoder.up.0.upsample.conv.weight" not in shapes
    assert "encoder.down.1.downsample.conv.weight" not in shapes


def test_tokenizers_that_the_layout_can_t_hold(tmp_path: Path) -> None:
    model = small()
    model.config = None
    with pytest.raises(UsageError, match="other parts"):  # no config: no image size
        VaVaeFormat().write(model, tmp_path / "a")
    for other, message in (
        (small(value_range="imagenet"), "value_range"),
        (small(width=8), "not twice"),
        (small(attention=(2,)), "attention of encoder and decoder differ"),
        (tiny_tokenizer(), "other parts"),
    ):
        other.config = other.config or load(FOLDER).config
        with pytest.raises(UsageError, match=message):
            VaVaeFormat().write(other, tmp_path / "a")
    assert not (tmp_path / "a").exists()
