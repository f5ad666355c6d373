"""`Tokenizer.from_hub`, on a cache of the hub as its client writes it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from vtp_core import Tokenizer, load
from vtp_core.artefact.hub import needed
from vtp_core.errors import CheckpointError, UsageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot's folder of owner/name in an empty cache, without a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    return folder


def shipped() -> Path:
    import vtp_plugins.vtp_nano.artefact as nano

    return nano.folder()


@torch.no_grad()
def test_a_repository(snapshot: Path) -> None:
    shutil.copytree(shipped(), snapshot, dirs_exist_ok=True)
    pixels = torch.zeros(1, 3, 32, 32)
    own = load("vtp-nano").encode(pixels).latent
    assert torch.equal(Tokenizer.from_hub("owner/name", COMMIT).encode(pixels).latent, own)
    shutil.copytree(shipped(), snapshot / "models" / "nano")
    (snapshot / "config.json").write_text("{}")
    found = Tokenizer.from_hub("owner/name", subfolder="models/nano/")
    assert torch.equal(found.encode(pixels).latent, own)
    with pytest.raises(CheckpointError):
        Tokenizer.from_hub("owner/name")


def test_what_is_downloaded(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options)
        return str(shipped())

    parts = [path.relative_to(shipped()) for path in shipped().rglob("*") if path.is_file()]
    own = [str(path) for path in parts if path.suffix not in (".py", ".pyc")]
    assert own
    foreign = ["modeling.py", "setup.sh", "a.pkl", "lib.so", "unet/model.safetensors", "heads/clip/x/a.bin"]
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda *_, **__: [*own, *foreign, "[a].json"])
    Tokenizer.from_hub("owner/name", "v1")
    assert asked == {"revision": "v1", "allow_patterns": [*own, "[[]a].json"]}


def test_of_a_pipeline_the_autoencoder_is_downloaded() -> None:
    files = ["model_index.json", "xl_base.safetensors", "vae/config.json", "vae/model.safetensors"]
    more = ["unet/config.json", "unet/model.safetensors", "text_encoder/model.safetensors", "vae/a/b.bin"]
    assert needed([*files, *more]) == [files[0], *files[2:]]
    assert needed([f"x/{name}" for name in [*files, *more]], "x") == [
        f"x/{files[0]}",
        "x/vae/config.json",
        "x/vae/model.safetensors",
    ]
    assert needed(["x/a.bin", "a.bin", "xy/a.bin"], "x") == ["x/a.bin"]


def test_what_can_t_be_downloaded(snapshot: Path) -> None:
    with pytest.raises(
        UsageError, match=r"the files of owner/other could not be downloaded .*check the name"
    ):
        Tokenizer.from_hub("owner/other")
    for name in ("name", "a/b/c", "../b", "/a", 3):
        with pytest.raises(UsageError, match='expected "owner/name"'):
            Tokenizer.from_hub(name)  # type: ignore[arg-type]
    for subfolder in ("../other", "/etc"):
        with pytest.raises(UsageError, match="is no folder of the repository"):
            Tokenizer.from_hub("owner/name", subfolder=subfolder)
