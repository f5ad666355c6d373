"""What is read is a module as any other: copies, pickle, gradients, torch.compile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugins.titok.published import KINDS, written
from vtp_core import load
from vtp_core.testing import check_tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_tokenizer(kind: str, tmp_path: Path) -> None:
    check_tokenizer(load(written(tmp_path, kind)))
