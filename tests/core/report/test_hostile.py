"""The page of a run folder whose files hold anything at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtp_core.report.page import render
from vtp_core.run.records import RunFolder

FILES = (
    "environment.json", "eval.json", "metrics.jsonl", "quarantine-0.jsonl", "samples/samples.json",
    "tokenizer/config.json",
)  # fmt: skip
EXTREMES = st.sampled_from([1e308, -1e308, 5e-324, float("inf"), float("nan"), 10**400])
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | EXTREMES | st.text(max_size=4)
VALUE = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def small(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy without images, which take the time of a page."""
    folder = tmp_path_factory.mktemp("hostile") / "run"
    skip = shutil.ignore_patterns("*.png", "checkpoints", "*.safetensors")
    return Path(shutil.copytree(finished, folder, ignore=skip))


def replaced(data: Any, value: Any, draw: st.DrawFn) -> Any:
    """The data with one of its parts replaced by `value`."""
    if not isinstance(data, dict | list) or not data or draw(st.integers(0, 3)) == 0:
        return value
    keys = list(data) if isinstance(data, dict) else list(range(len(data)))
    key = draw(st.sampled_from(keys))
    copy = data.copy()
    copy[key] = replaced(data[key], value, draw)
    return copy


@given(st.data())
def test_a_changed_part_of_a_file_does_not_stop_the_page(small: Path, data: st.DataObject) -> None:
    path = small / data.draw(st.sampled_from(FILES))
    before = path.read_text()
    lines = before.splitlines() if path.suffix == ".jsonl" else [before]
    changed = replaced(json.loads(lines[0]), data.draw(VALUE), data.draw)
    try:
        path.write_text("\n".join([json.dumps(changed), *lines[1:]]) + "\n")
        assert "tiny" in render(RunFolder(small).read())
    finally:
        path.write_text(before)


@pytest.mark.parametrize("table", ["run", "views", "data", "name"])
@pytest.mark.parametrize("value", ["3", "[1]", '"x"', "{ source = 3, image = 1, steps = [2] }"])
def test_a_resolved_recipe_of_other_types_does_not_stop_the_page(
    small: Path, tmp_path: Path, table: str, value: str
) -> None:
    (tmp_path / "resolved.toml").write_text(f"{table} = {value}\n")
    assert "Reproduce" in render(RunFolder(tmp_path).read())


def places(data: Any, *, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values; of a list that of its first one."""
    if path:
        yield path
    if isinstance(data, dict):
        parts = list(data.items())
    else:
        parts = list(enumerate(data[:1])) if isinstance(data, list) else []
    for key, value in parts:
        yield from places(value, path=(*path, key))


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [[], {}, None, 0, ""], ids=repr)
@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".json")])
def test_each_value_may_be_of_another_kind(small: Path, name: str, wrong: Any) -> None:
    path = small / name
    before = path.read_text()
    try:
        for place in places(json.loads(before)):
            changed = json.loads(before)
            parent = changed
            for key in place[:-1]:
                parent = parent[key]
            parent[place[-1]] = wrong
            path.write_text(json.dumps(changed))
            assert "tiny" in render(RunFolder(small).read()), place
    finally:
        path.write_text(before)
