"""Files of other projects: which are a model's, what is read of them; nothing in them is executed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import pytest
import torch
from pydantic import AfterValidator, TypeAdapter, ValidationError
from safetensors.torch import save_file

from tests.pickled_code import PickledCode
from vtp_core.config import first_problem
from vtp_core.errors import CheckpointError
from vtp_plugins.pretrained.published import read_table, read_tensors, weights_file
from vtp_plugins.pretrained.settings import (
    MOST_FILES,
    checked_table,
    count,
    find_settings,
    inner,
    read_settings,
)
from vtp_plugins.vq.config import VqConfig


def test_a_pickle_with_code_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    code = PickledCode(tmp_path / "executed")
    torch.save({"args": {"a": code}, "state_dict": {"weight": code}}, path)
    with pytest.raises(CheckpointError, match="nothing in it was executed"):
        read_tensors(path)
    with pytest.raises(CheckpointError, match="nothing in it was executed"):
        read_table(path, "args")
    assert weights_file(path, frozenset()) == path and weights_file(path, frozenset({"weight"})) is None
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(1).expand(10**9), "larger than the file"),
        ("text", "other than named tensors"),
    ],
)
def test_files_that_hold_something_else(content: object, message: str, tmp_path: Path) -> None:
    torch.save({"a": content}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message):
        read_tensors(tmp_path / "a.pt")


def test_the_file_of_weights_is_the_only_one_that_fits(tmp_path: Path) -> None:
    marks = frozenset({"a", "b"})
    assert weights_file(tmp_path / "nothing", marks) is None and weights_file(tmp_path, marks) is None
    own, nested = tmp_path / "own.safetensors", tmp_path / "nested.pt"
    save_file({name: torch.zeros(1) for name in "abc"}, own)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert weights_file(tmp_path, marks) == weights_file(own, marks) == own
    assert weights_file(tmp_path / "other.safetensors", marks) is None
    torch.save({"state": {name: torch.zeros(1) for name in "ab"}}, nested)
    assert weights_file(nested, marks) is None and weights_file(nested, marks, ("state",)) == nested
    assert weights_file(tmp_path, marks, ("state",)) is None, "two fit"
    assert weights_file(tmp_path, marks, ("state",), besides=("nested.pt",)) == own
    nested.unlink()
    for number in range(MOST_FILES):
        shutil.copy(tmp_path / "other.safetensors", tmp_path / f"{number}.safetensors")
    assert weights_file(tmp_path, marks) is None and weights_file(own, marks) == own


def test_settings_are_found_by_what_they_hold(tmp_path: Path) -> None:
    def known(raw: object) -> bool:
        return isinstance(raw, dict) and "size" in inner(raw, "model", "params")

    texts = {
        "a.json": '{"model": {"params": {"size": 1}}}',
        "b.yaml": "model: {params: {size: 2}}",
        "c.yml": "model: [1]",
        "d.yaml": "a: [",
        "e.json": "[]",
        "f.txt": "model: {params: {size: 3}}",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert [path.name for path in find_settings(tmp_path, known)] == ["a.json", "b.yaml"]
    assert find_settings(tmp_path / "b.yaml", known) == [tmp_path / "b.yaml"]
    assert find_settings(tmp_path / "f.txt", known) == find_settings(tmp_path / "nothing", known) == []
    with pytest.raises(CheckpointError, match=r"d\.yaml: not YAML"):
        read_settings(tmp_path / "d.yaml")
    (tmp_path / "c.yml").write_text("- 1")
    with pytest.raises(CheckpointError, match=r"c\.yml: no table of settings"):
        read_settings(tmp_path / "c.yml")


def refuse(_: int) -> int:
    raise ValueError("none given")


def test_the_first_problem_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"x\.json: channels: Input should be a valid int.*; this version"
    ):
        checked_table(VqConfig, tmp_path / "x.json", {"channels": "many"})
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(int).validate_python("many")
    assert first_problem(caught.value).startswith("Input should be a valid integer")
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Annotated[int, AfterValidator(refuse)]).validate_python(3)
    assert first_problem(caught.value) == first_problem(ValueError("none given")) == "none given"


def test_sizes_in_names() -> None:
    shapes = {f"encoder.block.{i}.{part}": (1,) for i in (0, 1, 10) for part in ("a", "b")} | {
        "block.7.a": (1,)
    }
    assert count(shapes, r"encoder\.block\.(\d+)\.") == 3 and count(shapes, r"decoder\.(\d+)") == 0
