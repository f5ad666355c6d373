"""Reads the rows of a table file, each as column -> value. Imports no torch."""

from __future__ import annotations

import csv
import json
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

from vtp_core.errors import DataError

Row = Mapping[str, object]
_MOST = 1 << 20  # characters of a line
_DELIMITERS = ",;\t|"
_NO_UTF8 = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as `surrogateescape` reads them
_SAVE = "row is not UTF-8 (save the table as UTF-8)"


def read_rows(path: Path, bad: Callable[[str, int], None]) -> Iterator[tuple[int, Row]]:
    """The rows of a table, in order, each with its number as `bad` gets it.

    Args:
        path: Its ending decides the format; text is UTF-8, with or without a byte-order mark.
        bad: Called with the reason and the number of each row that can't be read: of its line, from 1, or in
            parquet of the row.

    Raises:
        DataError: The file can't be read at all, holds images instead of their paths, or needs pyarrow, which
            is missing.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path}: not a regular file")
        if path.suffix.lower() == ".parquet":
            yield from _parquet(path)
            return
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            jsonl = path.suffix.lower() in (".jsonl", ".ndjson")
            yield from _jsonl(file, bad) if jsonl else _csv(file, path, bad)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def _lines(file: TextIO) -> Iterator[str]:
    """Lines of bounded length; the rest of a longer one is passed over, and its start stands for it."""
    while line := file.readline(_MOST):
        rest = line
        while len(rest) == _MOST and not rest.endswith("\n"):
            rest = file.readline(_MOST)
        yield line


def _jsonl(file: TextIO, bad: Callable[[str, int], None]) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        if _NO_UTF8.search(line):
            bad(_SAVE, number)
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            bad("line is not JSON", number)
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            bad("line is not a JSON object", number)


def _csv(file: TextIO, path: Path, bad: Callable[[str, int], None]) -> Iterator[tuple[int, Row]]:
    head = file.readline(_MOST)
    file.seek(0)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(_DELIMITERS, key=head.count)
    reader = csv.reader(_lines(file), delimiter=delimiter)
    names: list[str] = []
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            bad(f"row is not CSV ({error})", reader.line_num)
            continue
        if not names:
            names = [_NO_UTF8.sub("\ufffd", cell).strip() for cell in cells]
        elif any(map(_NO_UTF8.search, cells)):
            bad(_SAVE, reader.line_num)
        elif len(cells) == len(names):
            yield reader.line_num, dict(zip(names, cells, strict=True))
        elif any(cells):
            bad(f"row has another number of cells than the header's {len(names)}", reader.line_num)


def _parquet(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        import pyarrow
        from pyarrow import parquet, types
    except ImportError as error:
        raise DataError(
            f"{path}: parquet needs pyarrow; install it with pip install 'vtp-core[parquet]'"
        ) from error
    readable = (types.is_string, types.is_large_string, types.is_integer, types.is_dictionary)
    try:
        with parquet.ParquetFile(path) as file:
            kinds = {field.name: field.type for field in file.schema_arrow}
            bytes_in = [
                name for name, kind in kinds.items() if types.is_struct(kind) or types.is_binary(kind)
            ]
            plain = [name for name, kind in kinds.items() if any(holds(kind) for holds in readable)]
            if "image" in bytes_in or not plain:
                raise DataError(
                    f"{path}: it holds images, not their paths; write them to files or tar shards first"
                )
            batches = file.iter_batches(batch_size=1024, columns=plain)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as parquet ({' '.join(str(error).split())})") from error
