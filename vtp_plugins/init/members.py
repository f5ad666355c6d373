"""Finds out what the members of tar shards are. Imports no torch."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import PurePosixPath

from vtp_core.data.decoding import decode_utf
from vtp_core.errors import DataError
from vtp_plugins.tar_shards.members import members
from vtp_plugins.webdataset.config import WebDatasetConfig
from vtp_plugins.webdataset.urls import find_shards

_PEEKED = 2000  # members that are looked at
_MOST_JSON = 1 << 16  # bytes of a record
_RECORDS = 20  # of each kind that are read
_MASKS = ("seg", "mask", "depth", "alpha", "normal")
_TEXT, _LABEL = ("txt", "text", "caption"), ("cls", "label", "class")

Keys = dict[str, object]


def member_keys(urls: str) -> Keys:
    """Keys of a `webdataset` table by which it reads these shards; empty if its defaults do.

    Looks at the first members of the first shard. The part of a name after its first dot is what the member
    is, and in a folder for each sample the whole name.

    Raises:
        DataError: There is no shard, or it can't be read.
    """
    shards, _ = find_shards(urls)
    try:
        with shards[0].open("rb") as file:
            counts: Counter[str] = Counter()
            records: dict[str, list[Mapping[str, object]]] = {}
            for member in islice(members(file), _PEEKED):
                name = PurePosixPath(member.name).name.lower()
                if member.kind != "file" or name.startswith("."):
                    continue
                kind = name.partition(".")[2]
                counts.update((name, "." + kind))
                if kind.endswith("json") and member.size <= _MOST_JSON:
                    found = records.setdefault(kind, [])
                    if len(found) < _RECORDS:
                        file.seek(member.offset)
                        found += _record(file.read(member.size))
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{shards[0]}: {error}; `vtp data check` looks at all shards") from error
    dotted = {name[1:]: count for name, count in counts.items() if name.startswith(".")}
    # A name that repeats is what a member is, in a folder for each sample.
    repeated = {name: count for name, count in counts.items() if not name.startswith(".") and count > 1}
    return _keys(repeated or dotted, [row for found in records.values() for row in found])


def _record(data: bytes) -> list[Mapping[str, object]]:
    try:
        value = json.loads(decode_utf(data))
    except (ValueError, RecursionError):
        return []
    return [value] if isinstance(value, dict) else []


def _keys(kinds: Mapping[str, int], records: Iterable[Mapping[str, object]]) -> Keys:
    defaults = {name: field.default for name, field in WebDatasetConfig.model_fields.items()}
    chosen: dict[str, list[str]] = {"image": [], "text": [], "label": [], "record": [], "ignored": []}
    for kind in sorted(kinds, key=lambda kind: -kinds[kind]):
        stem, _, ending = kind.rpartition(".")
        if any(word in stem for word in _MASKS):
            field = "ignored"
        elif ending in defaults["image"]:
            field = "image"
        elif ending in _LABEL or stem in _LABEL:
            field = "label"
        elif ending in _TEXT:
            field = "text"
        elif ending == "json":
            field = "record"
        else:
            field = "ignored" if stem else ""
        if field:
            chosen[field].append(kind)
    keys: Keys = {}
    for field, names in chosen.items():
        if (
            names
            and not set(names) & set(defaults[field])
            and (field != "ignored" or any("." in n for n in names))
        ):
            keys[field] = names
    if not chosen["text"] and (text := _text_key(records, defaults["record_text"])):
        keys["record_text"] = [text]
    return keys


def _text_key(records: Iterable[Mapping[str, object]], known: Iterable[str]) -> str | None:
    """The key of the longest texts of several words; None if the records have a usual key, or none."""
    lengths: Counter[str] = Counter()
    for record in records:
        if any(name in record for name in known):
            return None
        for name, value in record.items():
            if isinstance(value, str) and " " in value.strip() and "://" not in value:
                lengths[name] += len(value)
    return max(lengths, key=lambda name: lengths[name], default=None)
