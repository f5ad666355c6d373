"""Programs of a tokenizer's calls: equal to it at other sizes, and refused if they are not."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import vtp_core
from tests.agreement import Agreement
from tests.plugins.titok.published import written as titok
from tests.plugins.vtp.making import SMALL, draw, write
from vtp_core import load
from vtp_core.artefact import ArtefactConfig
from vtp_core.artefact.assembly import assemble
from vtp_core.cli.main import main
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.plugins import load_plugins
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.onnx.calls import calls_of
from vtp_plugins.onnx.comparison import compare
from vtp_plugins.onnx.format import OnnxFormat, TorchExportFormat
from vtp_plugins.onnx.trace import trace

VIT: dict[str, Any] = {"use": "vit", "width": 16, "depth": 1, "heads": 1, "patch": 4}
DECODER: dict[str, Any] = {"use": "vit", "width": 16, "depth": 1, "heads": 1}
CNN: dict[str, Any] = {
    "use": "cnn",
    "channels": 32,
    "multipliers": (1, 2),
    "residual_blocks": 1,
    "attention": (2,),
}
VQ: dict[str, Any] = {"use": "vq", "channels": 4, "quantizer": {"kind": "ema", "codes": 16}}
SHALLOW = {**SMALL, "vision_depth": 1, "decoder_depth": 1, "text_depth": 1}
KINDS: dict[str, tuple[dict[str, Any], ...]] = {
    "convolutional, variational": ({**CNN, "width": 8}, {"use": "kl", "channels": 4}, CNN),
    "quantised": (VIT, VQ, DECODER),
}


def tokenizer(encoder: dict[str, Any], bottleneck: dict[str, Any], decoder: dict[str, Any]) -> Tokenizer:
    config = ArtefactConfig(
        vtp_version=vtp_core.__version__,
        encoder=encoder,
        bottleneck=bottleneck,
        decoder=decoder,
        image_size=16,
        latents_mean=(0.5,) * bottleneck["channels"],
        latents_std=(2.0,) * bottleneck["channels"],
    )
    torch.manual_seed(3)
    return assemble(config, load_plugins())


def drawn(call: str, model: Tokenizer, *sizes: int) -> Tensor:
    torch.manual_seed(11)
    return next(each for each in calls_of(model) if each.name == call).draw(*sizes)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Both towers, positions in bfloat16."""
    return load(write(tmp_path_factory.mktemp("published") / "model", SHALLOW, draw(SHALLOW, seed=1)))


def run(folder: Path, call: str, value: Tensor) -> list[Tensor]:
    facts = json.loads((folder / "config.json").read_text())["calls"][call]
    session = onnxruntime.InferenceSession(str(folder / facts["file"]), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_outputs()] == facts["outputs"]
    return [torch.from_numpy(each) for each in session.run(None, {facts["input"]: value.numpy()})]


@pytest.mark.slow
@pytest.mark.agrees(
    "ONNX programs of a VTP model: encode, decode, both embeddings", "onnxruntime", 1e-3, relative=True
)
def test_a_published_model_in_onnxruntime(published: Tokenizer, tmp_path: Path, agreement: Agreement) -> None:
    OnnxFormat().write(published, tmp_path / "onnx")
    for sizes in ((1, 1, 1), (1, 6, 2), (4, 2, 3)):
        pixels, latent = drawn("encode", published, *sizes), drawn("decode", published, *sizes)
        ids = drawn("embed_text", published, *sizes)
        agreement(published.encode(pixels).latent, run(tmp_path / "onnx", "encode", pixels)[0])
        agreement(published.decode(latent).sample, run(tmp_path / "onnx", "decode", latent)[0])
        agreement(published.embed_image(pixels), run(tmp_path / "onnx", "embed_image", pixels)[0])
        embedded = published.exports["embed_text"](ids)
        agreement(embedded, run(tmp_path / "onnx", "embed_text", ids)[0])
    with pytest.raises(CheckpointError, match=r"holds programs \(vtp-onnx\), no networks"):
        load(tmp_path / "onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"), [*((kind, "onnx") for kind in KINDS), ("quantised", "torch_export")]
)
def test_other_tokenizers(kind: str, name: str, tmp_path: Path) -> None:
    model = tokenizer(*KINDS[kind])
    OnnxFormat().write(model, tmp_path) if name == "onnx" else TorchExportFormat().write(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["latents_mean"] == [0.5] * 4 and config["latents_std"] == [2.0] * 4
    assert set(config["calls"]) == {"encode", "decode", *(["decode_codes"] if kind == "quantised" else [])}
    pixels = drawn("encode", model, 1, 3, 4)
    expected = model.encode(pixels)
    if name == "onnx":
        latent, second = run(tmp_path, "encode", pixels)
    else:
        latent, second = torch.export.load(tmp_path / "encode.pt2").module()(pixels)
    torch.testing.assert_close(latent, expected.latent, atol=1e-4, rtol=1e-4)
    third = expected.indices if kind == "quantised" else expected.latent_dist.logvar
    torch.testing.assert_close(second, third, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_network_of_one_image_size(tmp_path: Path) -> None:
    model = load(titok(tmp_path / "titok", "vq"))
    assert model.encoder.only_size is not None
    call = calls_of(model)[0]
    module = trace(call).module()
    for batch in (1, 3):
        pixels = call.draw(batch, 0, 0)
        assert pixels.shape[2:] == model.encoder.only_size
        torch.testing.assert_close(module(pixels)[0], model.encode(pixels).latent, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_one_program_for_every_batch_of_texts(published: Tokenizer) -> None:
    (call,) = (each for each in calls_of(published) if each.name == "embed_text")
    module = trace(call).module()
    for batch in (1, 3):
        ids = call.draw(batch, 0, 0)
        torch.testing.assert_close(module(ids)[0], published.exports["embed_text"](ids))


def test_a_program_with_other_numbers_is_refused(published: Tokenizer) -> None:
    (call,) = (each for each in calls_of(published) if each.name == "embed_text")

    def exact(value: Tensor) -> list[Any]:
        return [output.numpy() for output in call.module(value)]

    assert compare(call, exact) == 0
    with pytest.raises(UsageError, match=r"^embed_text: differs from ours by 1\.\d+ relative"):
        compare(call, lambda value: [-1 * output for output in exact(value)])
    with pytest.raises(UsageError, match=r"text_embeds of \(1, 7\) has shape \(0, 12\), not \(1, 12\)"):
        compare(call, lambda value: [output[1:] for output in exact(value)])


def test_a_program_of_one_size_is_refused(published: Tokenizer) -> None:
    (call,) = (each for each in calls_of(published) if each.name == "embed_text")

    def fixed(value: Tensor) -> list[Any]:
        assert len(value) == 2, "Guard failed: value.size()[0] == 2"
        return [output.numpy() for output in call.module(value)]

    with pytest.raises(UsageError, match=r"fails for an input of \(1, 7\).*Guard failed: value\.size"):
        compare(call, fixed)


def test_codes_may_differ_by_ties_alone() -> None:
    model = tokenizer(*KINDS["quantised"])
    call = calls_of(model)[0]

    def other(value: Tensor) -> list[Any]:
        latent, codes = (output.numpy() for output in call.module(value))
        return [latent, 15 - codes]

    with pytest.raises(UsageError, match=r"^encode: \d+\.\d% of the codes differ"):
        compare(call, other)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnxscript" else found(name, *rest)
    )
    runner = CliRunner().invoke(main, ["export", "vtp-nano", str(tmp_path / "new"), "--format", "onnx"])
    assert runner.exit_code == 2 and not (tmp_path / "new").exists()
    assert "format onnx: onnxscript not installed: pip install 'vtp-core[onnx]'" in runner.output


def test_what_no_program_can_do_is_named(published: Tokenizer) -> None:
    model = Tokenizer(
        published.encoder, published.bottleneck, published.decoder, {"generate": torch.nn.Identity()}
    )
    with pytest.warns(UserWarning, match="left out, as it is no function of one tensor: generate"):
        assert [call.name for call in calls_of(model)] == ["encode", "decode"]
