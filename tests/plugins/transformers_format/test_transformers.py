"""Tokenizers in transformers: Auto classes, equal numbers, the Hub as a local folder, refusals."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers.utils.hub
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

import vtp_plugins.transformers as ours
from tests.agreement import Agreement
from tests.core.run.tiny_run import vtp
from tests.plugins.vtp.making import SMALL, draw, write
from vtp_core import load
from vtp_core.artefact import Head
from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.fingerprint import TokenizerName, fingerprint, name_of, require_same
from vtp_core.cli.main import main
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.plugins import load_plugins
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.transformers_format.format import TransformersFormat
from vtp_plugins.vtp_nano.artefact import folder as nano

CAPTIONS = ["A photo of  Ångström's café, 3 pm", "", "b!"]
LONG = "word " * 60


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """VTP-Nano with one block a network, a text tower and statistics."""
    config = load(nano()).config
    assert config is not None
    (name, head), *_ = config.heads.items()
    heads = {name: Head(objective={**head.objective, "depth": 1}, exports=head.exports)}
    shallow = {part: getattr(config, part) | {"depth": 1} for part in ("encoder", "decoder")}
    torch.manual_seed(2)
    return assemble(config.model_copy(update={**shallow, "heads": heads}), load_plugins())


@pytest.fixture(scope="module")
def exported(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transformers") / "exported"
    TransformersFormat().write(tokenizer, folder)
    return folder


def image() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (90, 71, 3), dtype=np.uint8))


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


@pytest.mark.agrees("VtpTokenizerModel of AutoModel: tokens, latent, images, embeddings", "transformers", 0)
def test_auto_classes_give_the_tokenizer(exported: Path, tokenizer: Tokenizer, agreement: Agreement) -> None:
    model = AutoModel.from_pretrained(exported)
    processor = AutoImageProcessor.from_pretrained(exported)
    texts = AutoTokenizer.from_pretrained(exported)
    assert isinstance(model, ours.VtpTokenizerModel) and not model.training
    inputs = processor(image(), return_tensors="pt")
    pixels = tokenizer.preprocess(image())
    agreement(inputs["pixel_values"], pixels)
    with torch.no_grad():
        found = model(**inputs, **texts(CAPTIONS, return_tensors="pt"))
        latent = model.encode(**inputs).latent
        agreement(model.decode(latent).sample, tokenizer.decode(tokenizer.encode(pixels).latent).sample)
    features = tokenizer.features(pixels)
    agreement(found.last_hidden_state[:, 1:], features.patches[:, 0])
    agreement(found.pooler_output, features.cls[:, 0])
    agreement(latent, tokenizer.encode(pixels).latent)
    agreement(found.latent, latent)
    agreement(found.image_embeds, tokenizer.embed_image(pixels))
    agreement(found.text_embeds, tokenizer.embed_text(CAPTIONS))
    scale = tokenizer.exports["logit_scale"].get_parameter("logit_scale").exp()
    scores = scale * tokenizer.embed_image(pixels) @ tokenizer.embed_text(CAPTIONS).T
    agreement(found.logits_per_image, scores)
    assert model.config.artefact["latents_mean"] and model.config.patch_size == tokenizer.encoder.patch


def test_ids_are_those_of_the_tower(exported: Path, tokenizer: Tokenizer) -> None:
    texts = AutoTokenizer.from_pretrained(exported)
    tower: Any = tokenizer.exports["embed_text"]
    found = texts([*CAPTIONS, LONG], return_tensors="pt")
    assert torch.equal(found["input_ids"], tower.tokenizer([*CAPTIONS, LONG]))
    ends = [row.tolist().index(texts.eos_token_id) + 1 for row in found["input_ids"]]
    assert found["attention_mask"].sum(1).tolist() == ends and ends[-1] == texts.model_max_length
    assert texts(CAPTIONS[0])["input_ids"] == found["input_ids"][0].tolist()
    assert (
        texts.decode(found["input_ids"][0], skip_special_tokens=True) == "a photo of ångström 's café , 3 pm"
    )
    assert texts.convert_tokens_to_ids(texts.tokenize("b")) == found["input_ids"][2][1:2].tolist()
    with pytest.raises(UsageError, match="takes 40 ids, not 77"):
        texts(CAPTIONS, max_length=77)


def test_the_folder_loads_without_transformers(exported: Path, tokenizer: Tokenizer) -> None:
    again = load(exported)
    found, expected = again.state_dict(), tokenizer.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert again.config is not None and tokenizer.config is not None
    assert again.config == tokenizer.config.model_copy(update={"fingerprint": None})
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters()), "writing left it alone"


def test_weights_that_were_trained_further_are_another_tokenizer(
    exported: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Whatever fingerprint a ``config.json`` states."""
    folder = copied(exported, tmp_path / "copy")
    raw = json.loads((folder / "config.json").read_text())
    raw["artefact"]["fingerprint"] = old = fingerprint(tokenizer)
    (folder / "config.json").write_text(json.dumps(raw))
    assert name_of(load(folder)).fingerprint == old
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        next(model.model.bottleneck.parameters()).add_(0.1)
    model.save_pretrained(folder)
    again = load(folder)
    assert name_of(again).fingerprint == fingerprint(again) != old
    with pytest.raises(CheckpointError, match="makes other latents"):
        require_same("latents", TokenizerName(name="old", fingerprint=old), name_of(again))


def test_statistics_of_another_number_of_channels_are_refused(exported: Path, tmp_path: Path) -> None:
    folder = copied(exported, tmp_path / "copy")
    raw = json.loads((folder / "config.json").read_text())
    raw["artefact"] |= {"latents_mean": [0.0], "latents_std": [1.0]}
    (folder / "config.json").write_text(json.dumps(raw))
    for read in (load, AutoModel.from_pretrained):
        with pytest.raises(CheckpointError, match="latents_mean has 1 values, the latent"):
            read(folder)


def test_push_to_the_hub(
    exported: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"

    def create_commit(repo_id: str, operations: Any, **_: Any) -> SimpleNamespace:
        for operation in operations:
            target = hub / repo_id / operation.path_in_repo
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(operation.path_or_fileobj, target)
        return SimpleNamespace(repo_url="here")

    def create_repo(repo_id: str, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(repo_id=repo_id)

    api = SimpleNamespace(create_commit=create_commit, create_repo=create_repo)
    monkeypatch.setattr(transformers.utils.hub, "hf_api", lambda: api)
    model = AutoModel.from_pretrained(exported)
    model.push_to_hub("me/tokenizer")
    AutoImageProcessor.from_pretrained(exported).push_to_hub("me/tokenizer")
    AutoTokenizer.from_pretrained(exported).push_to_hub("me/tokenizer")
    names = {path.name for path in (hub / "me/tokenizer").iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer_config.json"} <= names
    again = AutoModel.from_pretrained(hub / "me/tokenizer", dtype=torch.bfloat16)
    assert again.dtype == torch.bfloat16
    pixels = AutoImageProcessor.from_pretrained(hub / "me/tokenizer")(image(), return_tensors="pt")
    with torch.no_grad():
        latent = again.float().encode(**pixels).latent
    torch.testing.assert_close(
        latent, tokenizer.encode(tokenizer.preprocess(image())).latent, atol=0.1, rtol=0.1
    )


def test_a_published_model_goes_over(tmp_path: Path) -> None:
    model = load(write(tmp_path / "published", SMALL, draw(SMALL, seed=1)))
    TransformersFormat().write(model, tmp_path / "out")
    again = AutoModel.from_pretrained(tmp_path / "out")
    pixels, ids = torch.randn(2, 3, 32, 48).clamp(-2, 2), torch.randint(40, (3, 7))
    with torch.no_grad():
        found = again(pixel_values=pixels, input_ids=ids)
    assert torch.equal(found.latent, model.encode(pixels).latent)
    assert torch.equal(found.text_embeds, model.exports["embed_text"](ids))
    assert not (tmp_path / "out/tokenizer_config.json").exists(), "these ids are not of CLIP's vocabulary"


def test_gradients_reach_the_weights(exported: Path) -> None:
    model = AutoModel.from_pretrained(exported)
    model(pixel_values=torch.randn(1, 3, 16, 24).clamp(-2, 2)).latent.square().sum().backward()
    assert model.model.encoder.get_parameter("patch_embed.proj.weight").grad.abs().sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "missing model.bottleneck.proj.weight; unexpected nothing"),
        ("foreign", "missing nothing; unexpected model.more"),
        ("misshapen", r"model.bottleneck.proj.weight is torch.float32 \[1\], the model needs"),
        ("infinite", "its weight bottleneck.proj.weight is not finite"),
        ("size", "weights' files hold|missing"),
        ("table", "config.json: artefact: encoder: Field required"),
    ],
)
def test_foreign_weights_are_refused(exported: Path, tmp_path: Path, change: str, message: str) -> None:
    folder = copied(exported, tmp_path / "copy")
    state = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    if change == "missing":
        del state["model.bottleneck.proj.weight"]
    elif change == "foreign":
        state["model.more"] = torch.zeros(1)
    elif change == "misshapen":
        state["model.bottleneck.proj.weight"] = torch.zeros(1)
    elif change == "infinite":
        state["model.bottleneck.proj.weight"][0, 0] = torch.inf
    elif change == "size":
        config["artefact"]["encoder"] |= {"width": 2**20, "depth": 400, "heads": 2**16}
    else:
        del config["artefact"]["encoder"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    for read in (AutoModel.from_pretrained, load):
        with pytest.raises(CheckpointError, match=message):
            read(folder)


def test_settings_that_would_be_ignored_are_refused(exported: Path) -> None:
    with pytest.raises(UsageError, match="quantization_config is not supported"):
        AutoModel.from_pretrained(exported, quantization_config={"bits": 4})
    with pytest.raises(UsageError, match="device_map must be one device"):
        AutoModel.from_pretrained(exported, device_map="auto")
    with pytest.raises(TypeError, match="no setting 'do_resize'"):
        AutoImageProcessor.from_pretrained(exported)(image(), do_resize=False)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "transformers" else found(name, *rest),
    )
    done = CliRunner().invoke(main, ["export", "vtp-nano", str(tmp_path / "x"), "--format", "transformers"])
    assert done.exit_code == 2 and "pip install 'vtp-core[transformers]'" in done.output


@pytest.mark.slow
def test_an_import_without_transformers_names_the_extra_and_the_format_imports_none() -> None:
    code = (
        "import sys\nsys.modules['transformers'] = None\n"
        "import vtp_plugins.transformers_format.format\n"
        "try:\n import vtp_plugins.transformers\nexcept Exception as error:\n print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert "pip install 'vtp-core[transformers]'" in done.stdout


@pytest.mark.slow
def test_a_run_is_exported_with_statistics_of_its_latents(tmp_path: Path) -> None:
    assert vtp(tmp_path, "run.steps=1").exit_code == 0
    done = CliRunner().invoke(
        main,
        ["export", str(tmp_path / "run"), str(tmp_path / "out"), "--format", "transformers", "--limit", "8"],
    )
    assert done.exit_code == 0, done.output
    config = load(tmp_path / "out").config
    assert config is not None and config.latents_std is not None and len(config.latents_std) == 4
    assert "8" in str(config.latents_stats_protocol)
