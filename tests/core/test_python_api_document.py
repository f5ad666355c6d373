"""The example in docs/python_api.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.config import ArtefactConfig
from vtp_core.plugins import load_plugins

DOCUMENT = Path(__file__).parents[2] / "docs" / "python_api.md"


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return str(code)


def test_it_is_ten_lines() -> None:
    assert len([line for line in example().splitlines() if line.strip()]) <= 10


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    size = {"use": "vit", "width": 16, "depth": 1, "heads": 1}
    config = ArtefactConfig(
        vtp_version="0",
        encoder={**size, "patch": 8},
        bottleneck={"use": "linear", "channels": 6},
        decoder=size,
        image_size=32,
    )
    assemble(config, load_plugins()).save(tmp_path / "runs/quickstart/tokenizer")
    Image.fromarray(np.zeros((50, 40, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    # The example leaves the file to Pillow, as most scripts do; here a file left open is an error.
    code = example().replace('Image.open("photo.png")', 'Image.open("photo.png").copy()')
    exec(compile(code, str(DOCUMENT), "exec"), {})
    assert "[1, 6, 4, 4]" in capsys.readouterr().out
    with Image.open("reconstruction.png") as image:
        assert image.size == (32, 32)
