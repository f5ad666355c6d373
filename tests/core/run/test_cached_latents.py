"""Cached latents in a run: whose they are, and which statistics its artefact gets."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.core.toy_tokenizer import toy_plugins, toy_tokenizer
from vtp_core import Tokenizer
from vtp_core.artefact.fingerprint import TokenizerName, name_of
from vtp_core.data.source import Sample
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.run.setup.cached_latents import check_latents, prepare_sources
from vtp_core.run.setup.statistics import with_statistics
from vtp_core.training.ranks.world import World

WHAT = ("encoder", "bottleneck")


class Cached:
    """A source of latents, which notes that it was prepared."""

    fields = frozenset({"latent"})
    classes: tuple[str, ...] = ()

    def __init__(self, made_by: TokenizerName | None) -> None:
        self.made_by = made_by
        self.prepared: list[torch.device] = []

    def __len__(self) -> int:
        return 3

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        return Sample(key=str(index))

    def prepare(self, plugins: object, device: torch.device, show: object) -> None:
        self.prepared.append(device)

    def statistics(self) -> tuple[list[float], list[float], str]:
        return [1.0] * 48, [2.0] * 48, "of the files"


def recipe(**keys: object) -> Any:
    evaluate = SimpleNamespace(rows=4)
    data = SimpleNamespace(source="table")
    return SimpleNamespace(name="dit", freeze=WHAT, init_from=None, evaluate=evaluate, data=data, **keys)


def two_tokenizers() -> tuple[Tokenizer, Tokenizer]:
    """Of one architecture, with different weights."""
    one, other = toy_tokenizer(), toy_tokenizer()
    other.encoder.state_dict()["scale"].add_(0.5)
    return one, other


def state(model: Tokenizer) -> dict[str, torch.Tensor]:
    return {
        f"tokenizer.{part}.{name}": value
        for part in WHAT
        for name, value in getattr(model, part).state_dict().items()
    }


def test_sources_are_prepared_on_the_device_of_the_run() -> None:
    source = Cached(None)
    prepare_sources({"default": source}, recipe(), toy_plugins(), World())
    assert source.prepared == [torch.device("cpu")]


@pytest.mark.parametrize("freeze", [(), ("encoder",), ("bottleneck", "decoder")])
def test_latents_of_a_tokenizer_that_is_trained_are_refused(freeze: tuple[str, ...]) -> None:
    source, own = Cached(None), recipe()
    own.freeze = freeze
    with pytest.raises(UsageError, match=r"are trained and would leave them behind; set freeze"):
        prepare_sources({"default": source}, own, toy_plugins(), World())
    assert not source.prepared


def test_latents_of_another_tokenizer_are_refused_by_name(caplog: pytest.LogCaptureFixture) -> None:
    own, other = two_tokenizers()
    networks: Any = SimpleNamespace(encoder=own.encoder, bottleneck=own.bottleneck)
    check_latents({"default": Cached(name_of(own))}, recipe(), networks, state(own))
    message = r"source default belongs to the tokenizer toy \(\w{16}\); that of recipe dit \(\w{16}\) makes"
    with pytest.raises(CheckpointError, match=message):
        check_latents({"default": Cached(name_of(other))}, recipe(), networks, state(own))
    with pytest.raises(CheckpointError, match=message):  # what counts is the state that was loaded
        check_latents({"default": Cached(name_of(own))}, recipe(), networks, state(other))
    with caplog.at_level(logging.WARNING):
        check_latents({"default": Cached(None)}, recipe(), networks, state(own))
    assert "don't say which tokenizer made the latents" in caplog.text


def test_statistics_are_inherited_from_equal_networks_alone(tmp_path: Path) -> None:
    before, other = two_tokenizers()
    assert before.config is not None
    values = {"latents_mean": (3.0,) * 48, "latents_std": (4.0,) * 48, "latents_stats_protocol": "before"}
    before.config = before.config.model_copy(update=values)
    folder = str(before.save(tmp_path / "before"))
    sources: Any = SimpleNamespace(open=lambda table: Cached(None))
    for model, start, expected in (
        (before, folder, "before"),
        (other, folder, "of the files"),
        (before, None, "of the files"),
        (before, str(tmp_path / "gone"), "of the files"),
    ):
        own = recipe()
        own.init_from = start
        found = with_statistics(model, own, sources, toy_plugins(), 8)
        assert found.latents_stats_protocol == expected
        assert found.latents_std == ((4.0,) if expected == "before" else (2.0,)) * 48
