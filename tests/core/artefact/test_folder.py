"""Artefact folders: what is written is read back, and damage is named."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.core.toy_tokenizer import toy_config, toy_plugins, toy_tokenizer
from vtp_core import load
from vtp_core.artefact.assembly import assemble, load_training_state
from vtp_core.artefact.card import Training, write_card
from vtp_core.artefact.sums import check_sums
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.plugins import Plugins
from vtp_core.tokenizer import Tokenizer

PIXELS = (0.4 * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))).clamp(-1.5, 1.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = toy_tokenizer()
    with torch.no_grad():
        tokenizer.encoder.scale.fill_(1.25)
        tokenizer.bottleneck.seen.fill_(9)
    return tokenizer.save(tmp_path / "deep" / "tokenizer")


def test_what_is_saved_is_loaded(folder: Path) -> None:
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "README.md",
        "SHA256SUMS",
        "config.json",
        "heads/words/config.json",
        "heads/words/model.safetensors",
        "model.safetensors",
        "preprocessor_config.json",
    }
    first, second = (load(folder, plugins=toy_plugins()) for _ in range(2))
    assert not first.training and not any(p.requires_grad for p in first.parameters())
    assert float(first.encoder.scale) == 1.25 and first.bottleneck.seen.tolist() == [9, 9]
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert torch.equal(first.embed_image(PIXELS), second.embed_image(PIXELS))
    assert torch.equal(first.embed_text(["x"]), second.embed_text(["x"]))
    assert set(load_file(folder / "heads/words/model.safetensors")) == {
        "image_head.project.weight",
        "text_head.table.weight",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["format_version"] == 1 and config["input_range"] == "imagenet" and config["step"] == 7
    card = (folder / "README.md").read_text()
    assert "48 x 4 x 4" in card and "after 7 steps" in card


def test_a_run_folder_stands_for_its_tokenizer(folder: Path) -> None:
    assert load(folder.parent, plugins=toy_plugins()).config == load(folder, plugins=toy_plugins()).config
    (folder / "config.json").unlink()
    (folder.parent / "resolved.toml").write_text("")
    with pytest.raises(
        CheckpointError, match=r"this run has no tokenizer yet; go on with `vtp run .* --resume`"
    ):
        load(folder.parent, plugins=toy_plugins())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "none"])
def test_saving_again_replaces_its_own_files_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr("os.link", lambda *_, **__: (_ for _ in ()).throw(OSError(1, "not permitted")))
    others = {
        "notes.txt": b"mine",
        ".git/objects/ab/12": b"\0",
        "heads/words/curve.csv": b"1",
        "onnx/a": b"2",
    }
    for name, data in others.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "notes.txt").chmod(0o640)
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("nowhere")
    (folder / "critics/gan").mkdir(parents=True)
    (folder / "critics/gan/model.safetensors").write_bytes(b"stale")
    (folder / "NOTICE").write_bytes(b"stale")
    tokenizer = toy_tokenizer(text=False)
    tokenizer.save(folder)
    fresh = contents(tokenizer.save(tmp_path / "fresh"))
    assert contents(folder) == fresh | others
    assert (folder / "notes.txt").stat().st_mode & 0o777 == 0o640
    assert (folder / "empty").is_dir() and (folder / "link").readlink() == Path("nowhere")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["tokenizer"]
    assert load(folder, plugins=toy_plugins()).capabilities == tokenizer.capabilities


def test_a_folder_of_links_is_replaced_by_files(folder: Path) -> None:
    """As one in the cache of the Hub is; what the links lead to stays as it is."""
    blobs = folder.parent / "blobs"
    folder.rename(blobs)
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "SHA256SUMS"):
        (folder / name).symlink_to(blobs / name)
    before = contents(blobs)
    toy_tokenizer(text=False).save(folder)
    assert contents(blobs) == before and not any(path.is_symlink() for path in folder.rglob("*"))


def test_an_edited_card_stays(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    card = folder / "README.md"
    written = card.read_bytes()
    toy_tokenizer(text=False).save(folder)
    assert card.read_bytes() != written and not caplog.records, "it is the new one's"
    for text in (card.read_bytes().replace(b"## Use", b"## Usage"), b"mine", b""):
        card.write_bytes(text)
        caplog.clear()
        model = toy_tokenizer()
        model.save(folder)
        assert model.config is not None
        write_card(model, model.config, folder, Training())
        assert card.read_bytes() == text and "README.md: was edited, so it stays" in caplog.text
        check_sums(folder, ["config.json", "model.safetensors"])
    card.unlink()
    toy_tokenizer().save(folder)
    assert card.read_bytes() == written


def test_a_save_that_is_killed_leaves_the_old_folder_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each call that takes part in the exchange: nothing of the old folder is missing or changed."""
    (folder / "notes.txt").write_bytes(b"mine")
    before = contents(folder)
    for call in ("vtp_core.artefact.folder._carry", "vtp_core.atomic.rename_folder"):
        with monkeypatch.context() as patch:
            patch.setattr(call, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                toy_tokenizer(text=False).save(folder)
        assert contents(folder) == before


def test_a_failed_save_leaves_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "model.safetensors").read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vtp_core.artefact.folder.model_card", full)
    with pytest.raises(OSError, match="No space"):
        toy_tokenizer(text=False).save(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["tokenizer"]


def test_other_folders_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("mine")
    with pytest.raises(UsageError, match="something other than a tokenizer"):
        toy_tokenizer().save(tmp_path / "photos")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="something other than a tokenizer"):
        toy_tokenizer().save(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    toy_tokenizer().save(tmp_path / "empty")


def test_by_hand_has_no_config(tmp_path: Path) -> None:
    whole = toy_tokenizer()
    by_hand = Tokenizer(whole.encoder, whole.bottleneck, whole.decoder)
    with pytest.raises(UsageError, match="no component tables"):
        by_hand.save(tmp_path / "x")


def test_loading_leaves_the_random_state_alone(folder: Path) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    load(folder, plugins=toy_plugins())
    assert torch.equal(state, torch.get_rng_state())


def edit(key: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config[key] = value
        (folder / "config.json").write_text(json.dumps(config))

    return change


def write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def reweigh(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return run


def header(entry: dict[str, object]) -> bytes:
    text = json.dumps(entry).encode()
    return len(text).to_bytes(8, "little") + text


HUGE = {"encoder.scale": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
NEGATIVE = {"encoder.scale": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no tokenizer here"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: missing"),
        (lambda folder: (folder / "heads/words/model.safetensors").unlink(), "missing"),
        (write("config.json", b"{"), "not JSON"),
        (write("config.json", b"[" * 100_000), "not JSON"),
        (write("config.json", b'{"model_type": "bert"}'), "not an artefact"),
        (write("config.json", b" " * 1_000_001), "larger than"),
        (edit("format_version", 2), "format_version 2, this installation reads 1; upgrade"),
        (edit("surprise", 1), "surprise"),
        (edit("image_size", -1), "image_size"),
        (edit("image_mean", [0.5, 0.5, 0.5]), "must be ImageNet's"),
        (edit("latents_mean", [0.0]), "come together"),
        (edit("encoder", {"use": "toy", "scale": "big"}), "encoder toy: scale"),
        (edit("encoder", {}), "encoder: use: missing"),
        (edit("heads", {"../../up": {"objective": {}, "exports": {}}}), "heads"),
        (
            edit(
                "heads", {"words": {"objective": {"use": "toy_text"}, "exports": {"embed_text": "nothing"}}}
            ),
            "exports .*'embed_text': 'text_head'.*, not .*'nothing'",
        ),
        (write("model.safetensors", b""), "not a safetensors file"),
        (write("model.safetensors", b"\xff" * 100), "not a safetensors file"),
        (write("model.safetensors", pickle.dumps(print)), "not a safetensors file"),
        (write("model.safetensors", header(HUGE)), "does not fit"),
        (write("model.safetensors", header(NEGATIVE)), "whole numbers"),
        (write("model.safetensors", header({"encoder.scale": 3})), "damaged header"),
        (reweigh(lambda tensors: tensors.pop("decoder.gain")), "missing decoder.gain"),
        (reweigh(lambda tensors: tensors.update(extra=torch.zeros(1))), "unexpected extra"),
        (reweigh(lambda tensors: tensors.update({"decoder.gain": torch.zeros(2)})), r"\[2\].*needs.*\[1\]"),
        (reweigh(lambda tensors: tensors.update({"bottleneck.seen": torch.zeros(2)})), "bottleneck.seen is"),
    ],
)
def test_damage_is_named(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    (folder / "SHA256SUMS").unlink()  # as of an earlier version: no hash protects it
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder, plugins=toy_plugins())
    assert "\n" not in str(caught.value)


def test_a_cut_file_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    (folder / "SHA256SUMS").unlink()
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="does not fit its bytes"):
        load(folder, plugins=toy_plugins())


def test_half_precision_weights_load(folder: Path) -> None:
    (folder / "SHA256SUMS").unlink()
    reweigh(lambda tensors: tensors.update({"encoder.scale": tensors["encoder.scale"].bfloat16()}))(folder)
    assert load(folder, plugins=toy_plugins()).encoder.scale.dtype == torch.float32


def test_a_missing_plugin_is_a_usage_error(folder: Path) -> None:
    with pytest.raises(UsageError, match="toy"):
        load(folder, plugins=Plugins())


def training_state() -> dict[str, torch.Tensor]:
    source = toy_tokenizer()
    parts = {
        "tokenizer.encoder": source.encoder,
        "tokenizer.bottleneck": source.bottleneck,
        "tokenizer.decoder": source.decoder,
        "objectives.words.image_head": source.exports["embed_image"],
        "objectives.words.text_head": source.exports["embed_text"],
    }
    state = {f"{name}.{key}": v for name, part in parts.items() for key, v in part.state_dict().items()}
    state.update({f"ema.tokenizer.encoder.{k}": v + 1 for k, v in source.encoder.state_dict().items()})
    return state


def test_student_and_teacher_come_from_a_training_state() -> None:
    state = training_state()
    student, teacher = (assemble(toy_config(), toy_plugins()) for _ in range(2))
    assert load_training_state(student, state, "student") == []
    lacking = load_training_state(teacher, state, "teacher")
    assert torch.equal(student.encoder.noise, state["tokenizer.encoder.noise"])
    assert torch.equal(teacher.encoder.noise, state["tokenizer.encoder.noise"] + 1)
    assert torch.equal(
        teacher.exports["embed_text"].table.weight, state["objectives.words.text_head.table.weight"]
    )
    assert lacking == [
        "tokenizer.bottleneck",
        "tokenizer.decoder",
        "objectives.words.image_head",
        "objectives.words.text_head",
    ]


def test_an_incomplete_training_state_is_refused() -> None:
    state = training_state()
    del state["tokenizer.decoder.gain"]
    with pytest.raises(CheckpointError, match=r"tokenizer\.decoder\.gain is missing"):
        load_training_state(toy_tokenizer(), state, "student")


def test_two_objectives_may_export_the_same_capability(tmp_path: Path) -> None:
    config = toy_config()
    config = config.model_copy(update={"heads": {**config.heads, "second": config.heads["words"]}})
    tokenizer = assemble(config, toy_plugins())
    assert {"embed_text", "second/embed_text"} <= tokenizer.capabilities
    tokenizer.save(tmp_path / "t")
    again = load(tmp_path / "t", plugins=toy_plugins())
    assert torch.equal(
        again.exports["second/embed_text"].table.weight, tokenizer.exports["second/embed_text"].table.weight
    )


def test_a_head_whose_plugin_is_missing_is_left_out_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Images need no text tower: encode and decode work, and a copy has what was loaded."""
    toy_tokenizer().save(tmp_path / "whole")
    plugins = toy_plugins()
    plugins._components = {key: value for key, value in plugins._components.items() if key[0] != "objective"}
    model = load(tmp_path / "whole", plugins=plugins)
    assert "loaded without embed_image, embed_text: unknown objective" in caplog.text
    whole = load(tmp_path / "whole", plugins=toy_plugins())
    pixels = torch.randn(1, 3, 16, 16)
    assert torch.equal(model.encode(pixels).latent, whole.encode(pixels).latent)
    with pytest.raises(UsageError, match="embed_text"):
        model.embed_text(["a"])
    model.save(tmp_path / "copy")
    assert not load(tmp_path / "copy", plugins=plugins).exports
