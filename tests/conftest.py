"""Fixtures and settings of the whole suite."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.agreement import agreement, pytest_pyfunc_call  # noqa: F401  (of the mark `agrees`)

# A job in the background of a shell starts with SIGINT ignored, and tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_SLOW_HOST = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]

# `ci` draws the same examples each time, so that a red build is a change's fault; `deep` is for the night.
settings.register_profile("dev", max_examples=20, deadline=None, suppress_health_check=_SLOW_HOST)
settings.register_profile(
    "ci", max_examples=100, deadline=None, derandomize=True, suppress_health_check=_SLOW_HOST
)
settings.register_profile("deep", max_examples=2000, deadline=None, suppress_health_check=_SLOW_HOST)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of data and facts beside the repository; tests that use it skip where there is none."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no folder `shared` beside the repository")
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what runs on a GPU where there is none, or skips it if `-m` asks for it."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if torch.cuda.is_available() or not on_gpu:
        return
    if "gpu" in config.option.markexpr:
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device: make gpu on a machine with one"))
        return
    items[:] = [item for item in items if not item.get_closest_marker("gpu")]
    config.hook.pytest_deselected(items=on_gpu)


@pytest.fixture(autouse=True, scope="module")
def _own_compilations() -> Iterator[None]:
    """No module finds what another compiled: torch counts the graphs of a function, and stops at eight."""
    yield
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


@pytest.fixture(autouse=True)
def _own_randomness() -> Iterator[None]:
    """Each test starts from the same global generators, and leaves them and torch's settings as they were."""
    python, legacy, state = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    threads, dtype, deterministic = (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
    )
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
    yield
    random.setstate(python)
    numpy.random.set_state(legacy)
    torch.set_rng_state(state)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.use_deterministic_algorithms(deterministic)
