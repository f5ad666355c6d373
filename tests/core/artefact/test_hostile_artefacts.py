"""Artefacts from elsewhere: nothing is built that their weights don't fill, nothing outside is read."""

from __future__ import annotations

import builtins
import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.core.toy_tokenizer import toy_config, toy_plugins, toy_tokenizer
from vtp_core import load
from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.card import model_card
from vtp_core.artefact.config import ArtefactConfig
from vtp_core.errors import CheckpointError, VtpError
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.recipe.tokenizers import locate
from vtp_core.tokenizer import Tokenizer

Edit = Callable[[dict], object]


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins()


@pytest.fixture
def nano(plugins: Plugins, tmp_path: Path) -> Path:
    """A copy of the tokenizer that ships, without hashes."""
    folder = Path(shutil.copytree(locate("vtp-nano", plugins), tmp_path / "nano"))
    (folder / "SHA256SUMS").unlink(missing_ok=True)
    return folder


def edit(folder: Path, change: Edit) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def part(part_name: str, **values: object) -> Edit:
    return lambda config: config[part_name].update(values)


def head(name: str, /, exports: dict | None = None, **objective: object) -> Edit:
    exports = {"embed_image": "image"} if exports is None else exports
    return lambda config: config.update(heads={name: {"objective": objective, "exports": exports}})


REFUSED = {
    "a width of 1e6": (part("encoder", width=999_936), "different models"),
    "a width of 1e12": (part("encoder", width=999_999_999_936), "can't be built|different models"),
    "a depth of 1e6": (part("encoder", depth=10**6), "far more than the weights' files hold"),
    "a depth of 1e12": (part("decoder", depth=10**12), "far more than the weights' files hold"),
    "1e9 attention heads": (part("encoder", heads=10**9), "encoder vit"),
    "a negative width": (part("encoder", width=-32), "encoder vit: width"),
    "a patch of 0": (part("encoder", patch=0), "encoder vit: patch"),
    "a large network": (part("encoder", width=8192, heads=64, depth=64), "far more than|different models"),
    "a large text tower": (
        lambda config: config["heads"]["clip"]["objective"].update(context=10**7), "different models",
    ),
    "a list without end": (
        lambda config: config.update(encoder={"use": "cnn", "multipliers": [1] * 200_000}), "multipliers",
    ),
    "another component": (lambda config: config.update(encoder={"use": "os:system"}), "os:system"),
    "a head that exports nothing": (
        head("clip", use="perceptual", view="v", weights="/etc/shadow", exports={"a": "network"}),
        "perceptual.*nothing",
    ),
    "a head that exports something else": (
        head("clip", use="clip", view="v", exports={"embed_image": "text"}), "heads.clip: .*not .*'text'",
    ),
    "a head without exports": (head("clip", use="clip", view="v", exports={}), "heads.clip"),
    "a head above": (head("..", use="clip", view="v"), "heads"),
    "statistics of NaN": (
        lambda config: config.update(latents_mean=[float("nan")] * 4, latents_std=[1.0] * 4), "latents_mean",
    ),
    "infinite statistics": (
        lambda config: config.update(latents_mean=[0.0] * 4, latents_std=[float("inf")] * 4), "latents_std",
    ),
    "an infinite factor": (lambda config: config.update(scaling_factor=float("inf")), "scaling_factor"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_nothing_is_built_that_the_weights_do_not_fill(nano, plugins, monkeypatch, change, message):
    edit(nano, change)
    real = Tokenizer.__init__

    def only_on_the_meta_device(self: Tokenizer, *parts: nn.Module, **more: object) -> None:
        real(self, *parts, **more)
        assert {parameter.device.type for parameter in self.parameters()} <= {"meta"}

    monkeypatch.setattr(Tokenizer, "__init__", only_on_the_meta_device)
    with pytest.raises(VtpError, match=message) as caught:
        load(nano, plugins=plugins)
    assert "\n" not in str(caught.value)


NETWORKS = {
    "vit, kl": (
        {"use": "vit", "preset": "nano"}, {"use": "kl", "channels": 4}, {"use": "vit", "preset": "nano"},
    ),
    "cnn, linear": (
        {"use": "cnn", "channels": 32}, {"use": "linear", "channels": 4}, {"use": "cnn", "channels": 32},
    ),
}  # fmt: skip


@pytest.mark.parametrize("tables", NETWORKS.values(), ids=NETWORKS)
def test_networks_that_ship_are_loaded(plugins, tmp_path, tables):
    encoder, bottleneck, decoder = tables
    config = ArtefactConfig(
        vtp_version="0", encoder=encoder, bottleneck=bottleneck, decoder=decoder, image_size=32
    )
    tokenizer = assemble(config, plugins)
    again = load(tokenizer.save(tmp_path / "t"), plugins=plugins)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in tokenizer.state_dict().items())


def test_what_is_not_in_the_file_is_limited(tmp_path):
    """A head's objective may have parts that it does not export, and buffers that no file holds."""
    folder = toy_tokenizer().save(tmp_path / "toy")
    plugins = toy_plugins()
    target = plugins.find("objective", "toy_text").load_target()
    built = target.__init__

    class Large(target):
        def __init__(self, *arguments: object) -> None:
            built(self, *arguments)
            self.register_buffer("table", torch.empty(10**6, 10**6), persistent=False)

    component = plugins.find("objective", "toy_text")
    object.__setattr__(component, "load_target", lambda: Large)
    with pytest.raises(CheckpointError, match=r"its networks take 3725\.3 GiB"):
        load(folder, plugins=plugins)


def test_a_constructor_that_fails_is_named(tmp_path):
    folder = toy_tokenizer().save(tmp_path / "toy")
    plugins = toy_plugins()

    def failing(*_: object) -> nn.Module:
        torch.ones(1).item()
        raise AssertionError("the meta device has no values")

    object.__setattr__(plugins.find("decoder", "toy"), "load_target", lambda: failing)
    with pytest.raises(CheckpointError, match=r"can't be built .*meta device"):
        load(folder, plugins=plugins)


def test_loading_reaches_out_to_nothing(nano, plugins, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("reached out")

    load(nano, plugins=plugins)  # imports are done
    opened: list[str] = []
    real_open, real_path_open = builtins.open, Path.open

    def note(path: object, *more: object, **options: object):
        opened.append(str(path))
        return real_open(path, *more, **options)

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(builtins, "open", note)
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, *more, **options: (opened.append(str(self)), real_path_open(self, *more, **options))[1],
    )
    tokenizer = load(nano, plugins=plugins)
    assert tokenizer.capabilities
    package = Path(__import__("vtp_plugins").__file__).parent
    outside = [path for path in opened if not path.startswith((str(nano), str(package)))]
    assert not outside


def test_each_loaded_file_has_a_hash(tmp_path):
    folder = toy_tokenizer().save(tmp_path / "toy")
    listed = [line.split("  ") for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert [name for _, name in listed] == [
        "config.json",
        "heads/words/config.json",
        "heads/words/model.safetensors",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert (
        subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder, check=False).returncode == 0
    )
    for name in ("config.json", "heads/words/model.safetensors", "model.safetensors"):
        good = (folder / name).read_bytes()
        # The last digit of a number, and the last byte of a weight: both files stay well-formed.
        bad = (
            good.replace(b'"step": 7', b'"step": 9')
            if name == "config.json"
            else good[:-1] + bytes([good[-1] ^ 1])
        )
        assert bad != good
        (folder / name).write_bytes(bad)
        with pytest.raises(CheckpointError, match=f"{name}: differs from its hash in SHA256SUMS"):
            load(folder, plugins=toy_plugins())
        (folder / name).write_bytes(good)
    first, rest = (folder / "SHA256SUMS").read_text().split("\n", 1)
    for text, message in ((rest, "is not listed"), (first[5:], "SHA256SUMS: damaged at")):
        (folder / "SHA256SUMS").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            load(folder, plugins=toy_plugins())
    (folder / "SHA256SUMS").unlink()
    load(folder, plugins=toy_plugins())


def test_the_model_card_passes_no_html_on():
    config = toy_config().model_copy(
        update={
            "recipe": "x`\n<script>alert(1)</script>\n`",
            "vtp_version": "<b>",
            "latents_stats_protocol": "a | b <img src=x>",
        }
    )
    card = model_card(toy_tokenizer(), ArtefactConfig.model_validate(config.model_dump()))
    assert "<script>" not in card and "<b>" not in card and "<img" not in card
    assert "# Visual tokenizer `x&#96; &lt;script&gt;alert(1)&lt;/script&gt; &#96;`" in card
    assert "| latent statistics | a &#124; b &lt;img src=x&gt; |" in card
