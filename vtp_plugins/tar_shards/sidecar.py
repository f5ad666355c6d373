"""The cached index of a shard: ``NAME.tar.vtp-index`` beside it, or in the user's cache. Imports no torch.

It is valid while size and modification time of the shard are the same. One that is damaged, or whose values
can't be those of the shard, is built again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vtp_core.atomic import open_plain, replacing_file, sweep
from vtp_plugins.tar_shards.index import INTERLEAVED, ShardIndex, build_index
from vtp_plugins.tar_shards.keys import Keys

_VERSION = 2
_SUFFIX = ".vtp-index"
_ARRAYS = {"facts": "u1", "offsets": "i8", "lengths": "i8", "keys": "u1"}
_UNSAFE = (b"\0\0", b"\0.\0", b"\0..\0")
"""Parts of a path that no key has, between ends."""


def load_index(shard: Path, known: Sequence[str], *, cache: bool = True) -> ShardIndex:
    """The index of a shard, from the cache if the shard is unchanged, else built and cached.

    Args:
        shard: Plain tar file.
        known: As in `build_index`; an index of other extensions is not used.
        cache: Whether to read and write the cache.

    Raises:
        OSError: The shard can't be opened.
        tarfile.TarError: It is not a usable tar file.
    """
    if not cache:
        return build_index(shard, known)
    stat = shard.stat()
    places = _places(shard)
    for place in places:
        found = _read(place, known, stat)
        if found is not None:
            return found
    index = build_index(shard, known)
    data = _packed(index, known)
    if len(data) <= _most(index.size):
        for place in places:
            try:
                _write(place, data)
                break
            except OSError:  # a read-only data folder is normal; the user's cache is next
                continue
    return index


def sweep_sidecars(shards: Sequence[Path]) -> None:
    """Removes what killed processes left of the sidecars of some shards."""
    names: dict[Path, set[str]] = {}
    for shard in shards:
        for place in _places(shard):
            names.setdefault(place.parent, set()).add(place.name)
    for folder, known in names.items():
        with suppress(OSError):  # a read-only data folder is normal
            sweep(folder, known, seconds=60)


def _places(shard: Path) -> list[Path]:
    places = [shard.with_name(shard.name + _SUFFIX)]
    name = blake2b(os.fsencode(shard.resolve()), digest_size=16).hexdigest()
    with suppress(RuntimeError):  # a user without a home folder, as in many containers
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        places.append(base / "vtp" / "shards" / (name + _SUFFIX))
    return places


def _most(size: int) -> int:
    """Bytes of the largest sidecar; the index of a shard of tiny members is built each time."""
    return (1 << 16) + size // 4


def _write(place: Path, data: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(place) as file:
        file.write(data)


def _packed(index: ShardIndex, known: Sequence[str]) -> bytes:
    facts = {
        "version": _VERSION,
        "known": sorted(known),
        "stat": [index.size, index.mtime],
        "extensions": index.extensions,
        "others": index.others,
        "problems": index.problems,
    }
    arrays: dict[str, NDArray[Any]] = {
        "facts": numpy.frombuffer(json.dumps(facts).encode(), dtype=numpy.uint8),
        "offsets": index.offsets,
        "lengths": index.lengths,
        "keys": index.keys.data,
    }
    return save({**arrays, "digest": _digest(arrays)})


def _digest(arrays: Mapping[str, NDArray[Any]]) -> NDArray[numpy.uint8]:
    hashed = blake2b(digest_size=16)
    for name in _ARRAYS:
        hashed.update(numpy.ascontiguousarray(arrays[name]).tobytes())
    return numpy.frombuffer(hashed.digest(), dtype=numpy.uint8)


def _read(place: Path, known: Sequence[str], stat: os.stat_result) -> ShardIndex | None:
    """The index in a sidecar; None if there is none, or it is damaged or of another state of the shard."""
    try:
        with open_plain(place) as file:
            if os.fstat(file.fileno()).st_size > _most(stat.st_size):
                return None
            arrays = load(file.read())
        return _unpacked(arrays, known, stat)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _unpacked(
    arrays: dict[str, NDArray[Any]], known: Sequence[str], stat: os.stat_result
) -> ShardIndex | None:
    """Checks each value: what reads a shard by it may rely on it."""
    digest = arrays.pop("digest")
    types = {name: array.dtype.str.lstrip("<|") for name, array in arrays.items()}
    if types != _ARRAYS or digest.tobytes() != _digest(arrays).tobytes():
        return None
    facts = json.loads(arrays["facts"].tobytes())
    if facts["version"] != _VERSION or facts["known"] != sorted(known):
        return None
    if facts["stat"] != [stat.st_size, stat.st_mtime_ns]:
        return None
    index = ShardIndex(
        size=stat.st_size,
        mtime=stat.st_mtime_ns,
        extensions=tuple(facts["extensions"]),
        offsets=arrays["offsets"].astype(numpy.int64, copy=False),
        lengths=arrays["lengths"].astype(numpy.int64, copy=False),
        keys=Keys(arrays["keys"].astype(numpy.uint8, copy=False).reshape(-1)),
        others=_counts(facts["others"]),
        problems=_counts(facts["problems"]),
    )
    return index if _fits(index, known) else None


def _counts(counts: object) -> dict[str, int]:
    if not isinstance(counts, dict):
        raise TypeError("not a table")
    for name, count in counts.items():
        if not (name.isprintable() and len(name) < 64 and type(count) is int and count > 0):
            raise ValueError(name)
    return counts


def _fits(index: ShardIndex, known: Sequence[str]) -> bool:
    """Whether the values can be those of a shard: each member within it, rows in order, safe keys."""
    names, offsets, lengths, keys = index.extensions, index.offsets, index.lengths, index.keys.data
    if len(set(names)) != len(names) or not set(names) <= set(known):
        return False
    if offsets.shape != (len(index), len(names)) or lengths.shape != offsets.shape:
        return False
    parts = b"\0" + keys.tobytes().replace(b"/", b"\0")
    if parts[-1] != 0 or (len(keys) and any(part in parts for part in _UNSAFE)):
        return False
    there = offsets != -1
    starts, sizes = offsets[there], lengths[there]
    within = (starts >= 512) & (starts % 512 == 0) & (starts <= index.size)
    if not (within & (sizes >= 0) & (sizes <= index.size - starts)).all() or lengths[~there].any():
        return False
    first = numpy.where(there, offsets, index.size).min(axis=1, initial=index.size)
    rising = numpy.diff(first[first < index.size]) > 0
    return bool(rising.all()) or INTERLEAVED in index.problems
