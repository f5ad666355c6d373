"""What is read is a module as any other: copies, pickle, gradients, torch.compile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugins.unitok.published import unpacked
from vtp_core import load
from vtp_core.testing import check_tokenizer


@pytest.mark.slow
def test_tokenizer(tmp_path: Path) -> None:
    check_tokenizer(load(unpacked(tmp_path)))
