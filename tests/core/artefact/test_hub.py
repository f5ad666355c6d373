"""`Tokenizer.from_hub`, on a cache of the hub as its client writes it."""

from __future__ import annotations

import fnmatch
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from vtp_core import Tokenizer, load
from vtp_core.artefact.hub import FILES
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

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    Tokenizer.from_hub("owner/name", "v1")
    assert asked == {"revision": "v1", "allow_patterns": list(FILES)}
    needed = [str(path.relative_to(shipped())) for path in shipped().rglob("*") if path.suffix != ".md"]
    for name in ("heads/clip/model.safetensors", "encoder/config.json", *needed):
        assert "." not in name or any(fnmatch.fnmatch(name, pattern) for pattern in FILES), name
    for name in ("modeling.py", "setup.sh", "a.pkl", "lib.so"):
        assert not any(fnmatch.fnmatch(name, pattern) for pattern in FILES), name


def test_what_can_t_be_had(snapshot: Path) -> None:
    with pytest.raises(UsageError, match=r"the files of owner/other can't be had .*check the name"):
        Tokenizer.from_hub("owner/other")
    for name in ("name", "a/b/c", "../b", "/a", 3):
        with pytest.raises(UsageError, match='expected "owner/name"'):
            Tokenizer.from_hub(name)  # type: ignore[arg-type]
    for subfolder in ("../other", "/etc"):
        with pytest.raises(UsageError, match="is no folder of the repository"):
            Tokenizer.from_hub("owner/name", subfolder=subfolder)
