"""The CUDA kernels, built for the CPU once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugins.kernels.cuda.shim import Shim, build
from vtp_plugins.kernels.native.compiler import cxx


@pytest.fixture(scope="session")
def shim_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if cxx() is None:
        pytest.skip("no C++ compiler on PATH")
    return build(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def shim(shim_library: Path) -> Shim:
    return Shim(shim_library)
