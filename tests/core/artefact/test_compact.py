"""Weights in fewer bytes: the bound of the rounding, what is read back, and files that were tampered with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.core.toy_tokenizer import toy_plugins, toy_tokenizer
from vtp_core import load
from vtp_core.artefact.compact import SCALE, compress, restore
from vtp_core.artefact.weights import read_weights, write_weights
from vtp_core.errors import CheckpointError, UsageError


@given(st.integers(2, 40), st.integers(-30, 30), st.integers(0, 2**31))
def test_no_weight_moves_by_more_than_half_a_scale(rows: int, exponent: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(rows, 1, 1, generator=generator) * 10.0**exponent
    matrix = torch.randn(rows, 32, 17, generator=generator) * spread
    matrix[0] = 0
    stored = compress({"m": matrix}, "int8")
    assert stored["m"].dtype == torch.int8 and stored["m" + SCALE].shape == (rows,)
    read = restore(stored)["m"]
    largest = matrix.double().abs().flatten(1).amax(1)
    bound = (largest / 254 * (1 + 1e-5)).clamp_min(1e-37).view(-1, 1, 1)
    assert ((read.double() - matrix.double()).abs() <= bound).all()
    assert not read[0].any()
    # Once rounded, nothing is lost any more.
    again = compress({"m": read}, "int8")
    assert torch.equal(again["m"], stored["m"])
    torch.testing.assert_close(restore(again)["m"], read, rtol=1e-6, atol=0)


def test_what_is_no_matrix_of_numbers_stays() -> None:
    kept = {
        "vector": torch.randn(5000),
        "small": torch.randn(31, 33),
        "row": torch.randn(1, 4096),
        "counts": torch.arange(4096).view(64, 64),
        "none": torch.zeros(0, 8),
    }
    stored = compress(kept, "int8")
    assert stored.keys() == kept.keys() and all(stored[name] is kept[name] for name in kept)
    rounded = compress(kept, "bfloat16")
    assert rounded["vector"].dtype == torch.bfloat16 and rounded["counts"].dtype == torch.int64
    assert compress(kept, "full") == kept


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_matrix_that_is_not_finite_is_refused(value: float) -> None:
    matrix = torch.ones(64, 64)
    matrix[3, 5] = value
    with pytest.raises(UsageError, match=r"encoder.w: .* save it in full"):
        compress({"encoder.w": matrix}, "int8")


EXPECTED = {"m": torch.zeros(64, 32), "v": torch.zeros(7)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    write_weights(path, compress({"m": torch.randn(64, 32), "v": torch.randn(7)}, "int8"))
    return path


def test_a_file_is_read_as_it_is_stored(file: Path) -> None:
    stored = load_file(file)
    read = read_weights(file, EXPECTED)
    assert read.keys() == EXPECTED.keys() and read["m"].dtype == torch.float32
    for row in range(64):
        assert torch.equal(read["m"][row], stored["m"][row].float() * stored["m" + SCALE][row])
    assert torch.equal(read["v"], stored["v"])


TAMPERED: dict[str, Callable[[dict[str, torch.Tensor]], None]] = {
    "no scales": lambda stored: stored.__delitem__("m" + SCALE),
    "scales of another length": lambda stored: stored.update({"m" + SCALE: torch.ones(63)}),
    "scales a column": lambda stored: stored.update({"m" + SCALE: torch.ones(32)}),
    "scales of another type": lambda stored: stored.update({"m" + SCALE: torch.ones(64, dtype=torch.int64)}),
    "scales of nothing": lambda stored: stored.update({"x" + SCALE: torch.ones(64)}),
    "scales of a vector in full": lambda stored: stored.update({"v" + SCALE: torch.ones(7)}),
    "unsigned": lambda stored: stored.update({"m": stored["m"].to(torch.uint8)}),
    "another shape": lambda stored: stored.update({"m": stored["m"].T.contiguous()}),
}


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED.keys())
def test_files_that_do_not_fit_are_refused(file: Path, tamper: Callable[..., None]) -> None:
    stored = load_file(file)
    tamper(stored)
    save_file(stored, file)
    with pytest.raises(CheckpointError, match="different models"):
        read_weights(file, EXPECTED)


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_a_folder_says_how_it_is_stored(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vtp_core.artefact.compact.LEAST", 1)
    full = toy_tokenizer()
    full.save(tmp_path / "full")
    full.save(tmp_path / "small", storage=storage)  # type: ignore[arg-type]
    assert json.loads((tmp_path / "small/config.json").read_text())["storage"] == storage
    assert ("8 bit" if storage == "int8" else "bfloat16") in (tmp_path / "small/README.md").read_text()
    read = load(tmp_path / "small", plugins=toy_plugins())
    head = load_file(tmp_path / "small/heads/words/model.safetensors")
    expected = torch.int8 if storage == "int8" else torch.bfloat16
    assert head["text_head.table.weight"].dtype == expected
    for name, value in full.state_dict().items():
        found = read.state_dict()[name]
        assert found.dtype == value.dtype, name
        torch.testing.assert_close(found, value, rtol=2**-8, atol=float(value.abs().max()) / 127, msg=name)
    # In full again, what was rounded is kept bit for bit.
    read.save(tmp_path / "again")
    assert json.loads((tmp_path / "again/config.json").read_text())["storage"] == "full"
    for name, value in load(tmp_path / "again", plugins=toy_plugins()).state_dict().items():
        assert torch.equal(value, read.state_dict()[name]), name


def test_an_unknown_storage_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^save: storage 'int4': expected one of full, bfloat16, int8$"):
        toy_tokenizer().save(tmp_path / "a", storage="int4")  # type: ignore[arg-type]
    assert not (tmp_path / "a").exists()


def test_the_command_stores_in_fewer_bytes(tmp_path: Path) -> None:
    from vtp_core.cli.main import main

    arguments = ["export", str(tmp_path / "a"), str(tmp_path / "b"), "--format", "vtp", "--storage", "int8"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and "has its own storage" in result.output
