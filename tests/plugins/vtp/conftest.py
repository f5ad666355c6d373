"""Folders that several tests read."""

from pathlib import Path

import pytest

from tests.plugins.vtp.making import TINY_L, draw, write


@pytest.fixture(scope="session")
def vtp_tiny_l(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published folder with the options of VTP-Large, small and with random weights."""
    return write(tmp_path_factory.mktemp("published") / "vtp_tiny_l", TINY_L, draw(TINY_L, seed=7))
