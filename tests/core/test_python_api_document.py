"""The example in docs/python_api.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCUMENT = Path(__file__).parents[2] / "docs" / "python_api.md"


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return str(code)


def test_it_is_ten_lines() -> None:
    assert len([line for line in example().splitlines() if line.strip()]) <= 10


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((50, 40, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(example(), str(DOCUMENT), "exec"), {})
    assert "[1, 32, 8, 8]" in capsys.readouterr().out
    with Image.open("reconstruction.png") as image:
        assert image.size == (64, 64)
