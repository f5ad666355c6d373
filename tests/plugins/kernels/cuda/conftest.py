"""The CUDA kernels, built for the CPU once a session."""

from __future__ import annotations

import pytest

from tests.plugins.kernels.cuda.shim import Shim, build
from vtp_plugins.kernels.native.compiler import cxx


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    if cxx() is None:
        pytest.skip("no C++ compiler on PATH")
    return Shim(build(tmp_path_factory.mktemp("shim")))
