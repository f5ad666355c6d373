"""Finds the columns of a table of images. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from vtp_core.errors import DataError
from vtp_plugins.image_list.config import ImageListConfig
from vtp_plugins.image_list.rows import Row, read_rows

_PEEKED = 200  # rows that are looked at


def table_keys(table: Path, path: str) -> Mapping[str, object] | None:
    """The table of `image_list` that reads a file; None if it lists no images that exist.

    Args:
        table: The file.
        path: How the recipe names it.
    """
    try:
        rows = [row for _, row in islice(read_rows(table, lambda reason, number: None), _PEEKED)]
    except DataError:
        return None
    defaults = ImageListConfig.model_fields
    columns = list(dict.fromkeys(name for row in rows for name in row))
    known = [name for name in columns if name.lower().strip() in defaults["image"].default]
    folders = [table.parent, *sorted(entry for entry in table.parent.iterdir() if entry.is_dir())]
    for column in (*known, *(name for name in columns if name not in known)):
        paths = [str(row[column]) for row in rows if isinstance(row.get(column), str) and row[column]]
        for root in folders:
            if paths and 2 * sum(_exists(root, name) for name in paths) > len(paths):
                keys: dict[str, object] = {"use": "image_list", "path": path}
                if root != table.parent:
                    keys["root"] = str(Path(path).parent / root.name)
                if column not in known:
                    keys["image"] = [column]
                others = [name for name in columns if name != column]
                if not any(name.lower().strip() in defaults["text"].default for name in others):
                    keys |= {"text": [text]} if (text := _captions(rows, others)) else {}
                return keys
    return None


def damage(table: Path) -> str:
    """The first row of a table that can't be read, as the end of a message; empty if there is none.

    Raises:
        DataError: The file can't be read at all.
    """
    bad: list[str] = []
    for _ in islice(read_rows(table, lambda reason, number: bad.append(f"row {number}: {reason}")), _PEEKED):
        pass
    return f"; the first problem: {bad[0]}" if bad else ""


def _exists(root: Path, name: str) -> bool:
    try:
        return (root / name).is_file()
    except (OSError, ValueError):
        return False


def _captions(rows: Sequence[Row], columns: Sequence[str]) -> str | None:
    """The column of the longest texts, if most of them have several words."""
    lengths: dict[str, int] = {}
    for column in columns:
        texts = [value for row in rows if isinstance(value := row.get(column), str)]
        if 2 * sum(" " in text.strip() for text in texts) > len(rows):
            lengths[column] = sum(map(len, texts))
    return max(lengths, key=lambda column: lengths[column], default=None)
