"""The source `image_list`: tables of every format, and rows that can't be read."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.data.making import encoded, noise
from vtp_core.data.source import BadSample
from vtp_core.errors import DataError
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_core.testing import check_source
from vtp_plugins.image_list.config import ImageListConfig
from vtp_plugins.image_list.source import ImageList
from vtp_plugins.image_list.strings import Strings

ROWS = [
    {"file_name": "a.png", "caption": "a bird", "label": "bird"},
    {"file_name": "sub/b.png", "caption": 'two, "quoted"\nlines', "label": "cat"},
    {"file_name": "c.png", "caption": "ein Käfer", "label": "bird"},
]


def opened(path: Path, **options: object) -> ImageList:
    return ImageList(ImageListConfig(path=str(path), **options), DecodeLimits())


def images(folder: Path) -> None:
    for seed, row in enumerate(ROWS):
        path = folder / row["file_name"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(noise(seed=seed)))


def write(path: Path, rows: Sequence[Mapping[str, object]], delimiter: str = ",") -> Path:
    """The rows in the format of the path's ending."""
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize(
    ("name", "delimiter"),
    [("x.csv", ","), ("x.csv", ";"), ("x.tsv", "\t"), ("metadata.jsonl", ""), ("x.parquet", "")],
)
def test_every_format_gives_the_same_samples(tmp_path: Path, name: str, delimiter: str) -> None:
    images(tmp_path)
    source = opened(write(tmp_path / name, ROWS, delimiter))
    assert source.fields == {"image", "text", "label"} and source.classes == ("bird", "cat")
    read = [source.read(index, source.fields) for index in range(len(source))]
    assert [sample.key for sample in read] == [row["file_name"] for row in ROWS]
    assert [sample.text for sample in read] == [row["caption"] for row in ROWS]
    assert [sample.label for sample in read] == [0, 1, 0]
    assert all((sample.image == noise(seed=seed)).all() for seed, sample in enumerate(read))
    assert source.problems() == {}


def test_metadata_of_a_folder_and_images_elsewhere(tmp_path: Path) -> None:
    images(tmp_path)
    (tmp_path / "lists").mkdir()
    write(tmp_path / "lists/metadata.jsonl", ROWS)
    source = opened(tmp_path / "lists", root=str(tmp_path))
    assert source.read(2, frozenset({"image"})).image is not None
    with pytest.raises(BadSample, match=r"^a\.png: unreadable"):
        opened(tmp_path / "lists").read(0, frozenset({"image"}))


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_rows_that_are_not_utf_8_are_named_and_left_out(tmp_path: Path, name: str) -> None:
    texts = ("caf\xe9", "tea", "\ud800")  # an escaped surrogate is valid JSON
    rows = [{"image": f"{index}.png", "text": text} for index, text in enumerate(texts)]
    if name == "x.csv":
        lines = ["image,text", *(f"{row['image']},{row['text']}" for row in rows[:2])]
    else:
        lines = [json.dumps(rows[0], ensure_ascii=False), *map(json.dumps, rows[1:])]
    (tmp_path / name).write_text("\n".join(lines), encoding="latin-1")  # as spreadsheets save it
    source = opened(tmp_path / name)
    kept = [source.read(index, frozenset()).key for index in range(len(source))]
    assert kept == (["1.png"] if name == "x.csv" else ["1.png", "2.png"])
    ((what, (place,)),) = source.problems().items()
    assert what == "row is not UTF-8 (save the table as UTF-8)"
    assert place == f"{tmp_path / name}: row {2 if name == 'x.csv' else 1}"


def test_most_rows_decide_which_fields_there_are_and_the_others_are_counted(tmp_path: Path) -> None:
    rows = [{"image": f"{index}.png"} | ({"text": "x"} if index else {}) for index in range(3)]
    rows[1]["label"] = "cat"
    source = opened(write(tmp_path / "x.jsonl", rows))
    assert source.fields == {"image", "text"}
    assert source.problems() == {"row without a caption": [f"{tmp_path}/x.jsonl: row 1"]}
    with pytest.raises(BadSample, match="no caption"):
        source.read(0, frozenset({"text"}))


@pytest.mark.parametrize(
    ("classes", "labels", "expected"),
    [
        ((), [2, 0], ([2, 0], ())),
        ((), ["7", "b"], ([0, 1], ("7", "b"))),
        (("7", "0"), ["7", "0"], ([0, 1], ("7", "0"))),  # all are names
        (("1", "2", "3"), ["0", "1"], ([0, 1], ("1", "2", "3"))),  # one is no name, so all are indices
        (("x", "y"), [1, "x"], ([1, 0], ("x", "y"))),
    ],
)
def test_labels_are_names_or_indices(
    tmp_path: Path, classes: tuple[str, ...], labels: list[object], expected: object
) -> None:
    rows = [{"path": f"{index}.png", "class": label} for index, label in enumerate(labels)]
    source = opened(write(tmp_path / "x.jsonl", rows), classes=classes)
    read = [source.read(index, frozenset({"label"})).label for index in range(len(source))]
    assert (read, source.classes) == expected
    with pytest.raises(DataError, match="label 'z' is none of the 2 classes a, b"):
        opened(write(tmp_path / "y.jsonl", [{"path": "a.png", "class": "z"}]), classes=("a", "b"))


def test_template_of_captions(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", ROWS)
    source = opened(path, caption="{text} A drawing of {class}.")
    assert source.read(0, frozenset({"text"})).text == "a bird A drawing of bird."
    bare = write(tmp_path / "y.jsonl", [{"path": "a.png"}])
    with pytest.raises(DataError, match="needs label and text"):
        opened(bare, caption="{text} {class}")


def test_rows_that_can_not_be_read_are_counted(tmp_path: Path) -> None:
    lines = [b'{"path": "a.png"}', b"{", b"[1]", b'{"path": 3.5}', b"", b'{"path": "\xff.png"}', b"[" * 5000]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines))
    source = opened(tmp_path / "x.jsonl")
    assert len(source) == 1
    counts = {what: [place.rsplit(" ", 1)[1] for place in at] for what, at in source.problems().items()}
    assert counts == {
        "line is not JSON": ["2", "7"],
        "line is not a JSON object": ["3"],
        "row without an image": ["4"],
        "row is not UTF-8 (save the table as UTF-8)": ["6"],
    }
    (tmp_path / "x.csv").write_text(
        'path,text\na.png,one\nb.png\nc.png,"' + "x" * 200_000 + '"\n\nd.png,two\n'
    )
    source = opened(tmp_path / "x.csv")
    assert [source.read(index, frozenset()).key for index in range(len(source))] == ["a.png", "d.png"]
    assert len(source.problems()) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "a,b\n1,2\n", "no column is called file_name or image or .*; its first row has a, b"),
        ("x.csv", "", "no row names an image"),
        ("x.jsonl", "{\n", "no row names an image; the first problem: line is not JSON"),
        ("x.parquet", "no", "not readable as parquet"),
        ("x.txt", "", "give a table that ends in"),
    ],
)
def test_tables_that_can_not_be_read(tmp_path: Path, name: str, content: str, message: str) -> None:
    if name == "x.parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / name)
    with pytest.raises(DataError, match="No such file"):
        opened(tmp_path / "missing.csv")


def test_parquet_of_images_and_parquet_without_pyarrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    path = write(tmp_path / "x.parquet", [{"image": {"bytes": b"x", "path": "a.png"}, "text": "a"}])
    with pytest.raises(DataError, match="it holds images, not their paths"):
        opened(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'vtp-core\[parquet\]'"):
        opened(path)


def test_addresses_and_devices_are_bad_samples(tmp_path: Path) -> None:
    rows = [{"path": "https://x/a.png"}, {"path": "/dev/zero"}, {"path": "a\0.png"}]
    source = opened(write(tmp_path / "x.jsonl", rows))
    for index, reason in enumerate(("an address, not a file", "not a regular file", "unreadable")):
        with pytest.raises(BadSample, match=reason):
            source.read(index, frozenset({"image"}))


@given(st.lists(st.text(st.characters())))
def test_strings_are_kept_as_they_are(texts: list[str]) -> None:
    strings = Strings()
    for text in texts:
        strings.append(text)
    strings.freeze()
    assert [strings[index] for index in range(len(strings))] == texts


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_it_keeps_the_rules_of_sources(name: str, tmp_path: Path) -> None:
    images(tmp_path)
    gone = {"file_name": "gone.png", "caption": "not there", "label": "cat"}
    check_source(opened(write(tmp_path / name, [*ROWS, gone])))
