"""Image files that a table lists, with captions and labels."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from os.path import expanduser
from pathlib import Path

from vtp_core.data.completeness import Lost
from vtp_core.data.decoding import clean_text, decode_image, read_file
from vtp_core.data.files import file_bytes
from vtp_core.data.source import BadSample, Sample, as_utf8
from vtp_core.errors import DataError
from vtp_core.recipe.tables.data import DecodeLimits
from vtp_plugins.image_list.config import ENDINGS, ImageListConfig, find_metadata
from vtp_plugins.image_list.rows import Row, read_rows
from vtp_plugins.image_list.strings import Strings

_SHOWN = 5  # rows that are named for each problem
_NONE = -1


class ImageList:
    """The rows of a table, each an image with what the table says of it; the key is the image's path there.

    Several rows may name one image, each with its own caption.

    Args:
        config: Its table.
        limits: Limits on its samples.

    Raises:
        DataError: The table is missing or unreadable, has no column of images, or no row with one.
    """

    def __init__(self, config: ImageListConfig, limits: DecodeLimits) -> None:
        self.config = config
        self.limits = limits
        self.table = _table(config)
        self.root = self.table.parent if config.root is None else Path(expanduser(config.root))
        self._columns = [
            [name.lower() for name in names] for names in (config.image, config.text, config.label)
        ]
        self._keys, self._texts = Strings(), Strings()
        self._problems: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()
        labels = self._read()
        self._keys.freeze()
        self._texts.freeze()
        if not len(self._keys):
            first = next((f"; the first problem: {what}, {at[0]}" for what, at in self._problems.items()), "")
            raise DataError(f"{self.table}: no row names an image{first}")
        self.classes, self._labels = _numbered(labels, config.classes, self.table)
        captioned = len(self) - self._counts["row without a caption"]
        labelled = len(self) - self._counts["row without a label"]
        # A field is one that most rows have; the others count as problems, and as bad where it is needed.
        have = {"image": len(self), "text": captioned, "label": labelled}
        fields = {name for name, count in have.items() if 2 * count > len(self)}
        self.fields = frozenset(fields | self._template_fields(fields))

    def _template_fields(self, fields: set[str]) -> set[str]:
        template = self.config.caption
        if template is None:
            return set()
        needs = {name for name, sign in (("label", "{class}"), ("text", "{text}")) if sign in template}
        if not needs <= fields or ("label" in needs and not self.classes):
            missing = sorted(needs - fields) or ["classes"]
            raise DataError(f"{self.table}: caption {template!r} needs {' and '.join(missing)}")
        return {"text"}

    def _read(self) -> list[str | None]:
        """Reads the whole table; the labels as they stand there."""
        labels: list[str | None] = []
        first: Row = {}
        for number, row in read_rows(self.table, self._problem):
            first = first or row
            known = {name.lower().strip(): row[name] for name in reversed(list(row))}
            path, text, label = (_cell(known, names) for names in self._columns)
            if not path:
                self._problem("row without an image", number)
                continue
            self._keys.append(path)
            self._texts.append(text)
            labels.append(label or None)
            if not text:
                self._problem("row without a caption", number)
            if not label:
                self._problem("row without a label", number)
        if (
            first
            and not len(self._keys)
            and not {name.lower().strip() for name in first} & set(self._columns[0])
        ):
            raise DataError(
                f"{self.table}: no column is called {' or '.join(self.config.image)}; its first row has "
                f"{', '.join(list(first)[:20])}: name the one of paths in `image`"
            )
        return labels

    def _problem(self, what: str, number: int) -> None:
        self._counts[what] += 1
        places = self._problems.setdefault(what, [])
        if len(places) < _SHOWN:
            places.append(f"{self.table}: row {number}")

    def problems(self) -> Mapping[str, Sequence[str]]:
        """Problem of rows -> the first rows; a field that most rows lack is no problem."""
        lacking = {f"row without a {what}" for name, what in _WORDS.items() if name not in self.fields}
        return {what: places for what, places in self._problems.items() if what not in lacking}

    def lost(self) -> Lost:
        """Rows that could not be read, a part for each reason."""
        counts = {what: n for what, n in self._counts.items() if not what.startswith("row without a")}
        parts = tuple(f"{self._problems[what][0]}: {what} ({n} such rows)" for what, n in counts.items())
        lost = sum(counts.values())
        return Lost(parts=parts, fraction=lost / (lost + len(self)))

    def __len__(self) -> int:
        return len(self._keys)

    def image_bytes(self, index: int) -> int | None:
        """See `vtp_core.data.source.SizedSource.image_bytes`."""
        return file_bytes(self.root / Path(expanduser(self._keys[index])))

    def read(self, index: int, fields: frozenset[str]) -> Sample:
        """Reads one sample; see `vtp_core.data.source.Source.read`."""
        key = self._keys[index]
        template = self.config.caption if "text" in fields else None
        label, text, image = None, None, None
        if "label" in fields or (template and "{class}" in template):
            label = self._labels[index]
            if label == _NONE:
                raise BadSample(key, "no label")
        if "text" in fields:
            text = self._texts[index]
            if template is None or "{text}" in template:
                text = clean_text(text, key, self.limits)
            if template is not None:
                name = "" if label is None else self.classes[label]
                text = template.format_map({"class": name, "text": text})
        if "image" in fields:
            if "://" in key:
                raise BadSample(key, "an address, not a file", "download the images first")
            data = read_file(self.root / Path(expanduser(key)), key, self.limits.max_bytes)
            image = decode_image(data, key, self.limits)
        return Sample(key=key, image=image, text=text, label=label)


_WORDS = {"text": "caption", "label": "label"}


def _table(config: ImageListConfig) -> Path:
    path = Path(expanduser(config.path))
    table = find_metadata(path) if path.is_dir() else path
    if table is None or table.suffix.lower() not in ENDINGS:
        raise DataError(
            f"{path}: give a table that ends in {', '.join(ENDINGS)}, or a folder with metadata.jsonl"
        )
    return table


def _cell(row: Row, names: Sequence[str]) -> str:
    """The text or whole number in the first of the columns `names` that the row has; else an empty string."""
    value = next((row[name] for name in names if name in row), None)
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _numbered(
    labels: Sequence[str | None], classes: tuple[str, ...], table: Path
) -> tuple[tuple[str, ...], array[int]]:
    """Class names by index, and the index of each label; -1 for None.

    Numbers are names if all labels are names of `classes`, so that a class may be called "7", else indices.
    """
    given = {label for label in labels if label is not None}
    if not classes and not all(name.isascii() and name.isdigit() and len(name) < 10 for name in given):
        classes = tuple(sorted(given))
    number = {name: index for index, name in enumerate(classes)}
    by_name = given <= number.keys()
    found: dict[str, int] = {}
    for name in given:
        is_number = name.isascii() and name.isdigit() and len(name) < 10
        index = int(name) if is_number and not by_name else number.get(name, _NONE)
        if index == _NONE or (classes and index >= len(classes)):
            raise DataError(
                f"{table}: label {name!r} is none of the {len(classes)} classes {', '.join(classes[:20])}; "
                "correct `classes` of the source"
            )
        found[name] = index
    numbers = array("l", [_NONE if label is None else found[label] for label in labels])
    return tuple(as_utf8(name) for name in classes), numbers
