"""Checkpoints whose manifest and hashes fit, but whose contents mean harm: refused by name, nothing runs."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import LoadItemType, ReadItem

from tests.pickled_code import PickledCode
from vtp_core.errors import CheckpointError
from vtp_core.training.saving.checkpoint import find_latest, load_available, save, verify
from vtp_core.training.saving.chunk import read_chunk
from vtp_core.training.saving.manifest import list_files, read_manifest
from vtp_core.training.saving.safe_reader import SafeReader, TensorPlanner

NAME = "encoder.weight"


def payload(mark: Path) -> bytes:
    """What ``torch.save`` writes of it."""
    buffer = io.BytesIO()
    torch.save(PickledCode(mark), buffer)
    return buffer.getvalue()


def state(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {NAME: torch.full((4, 6), value), "encoder.other": torch.zeros(4, 6), "count": torch.tensor(3)}


def rewrite(path: Path, edit: Callable[[Metadata], object], *files: str) -> None:
    """Edits a table of contents; the manifest gets the hashes that fit."""
    metadata = SafeReader(path).read_metadata()
    metadata.storage_meta = None
    edit(metadata)
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    rehash(path, ".metadata", *files)


def rehash(path: Path, *names: str) -> None:
    """Gives a manifest the hashes of changed and added files."""
    manifest = read_manifest(path)
    files = {**manifest.files, **list_files(path / name for name in names)}
    dataclasses.replace(manifest, files=files).write(path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save(tmp_path, 5, state(), recipe={}).path


def first(metadata: Metadata) -> MetadataIndex:
    return next(index for index in metadata.storage_data if index.fqn == NAME)


def place(**changes: object) -> Callable[[Metadata], None]:
    def edit(metadata: Metadata) -> None:
        index = first(metadata)
        metadata.storage_data[index] = dataclasses.replace(metadata.storage_data[index], **changes)

    return edit


def chunk(**changes: object) -> Callable[[Metadata], None]:
    def edit(metadata: Metadata) -> None:
        entry = metadata.state_dict_metadata[NAME]
        entry.chunks[0] = dataclasses.replace(entry.chunks[0], **changes)

    return edit


def nested(depth: int) -> tuple:
    value: tuple = ()
    for _ in range(depth):
        value = (value,)
    return value


def of_another(metadata: Metadata) -> None:
    other = next(index for index in metadata.storage_data if index.fqn == "encoder.other")
    metadata.storage_data[first(metadata)] = metadata.storage_data[other]


def twice(metadata: Metadata) -> None:
    entry = metadata.state_dict_metadata[NAME]
    half = dataclasses.replace(entry.chunks[0], sizes=torch.Size((4, 5)), offsets=torch.Size((0, 1)))
    entry.chunks.append(half)
    index = MetadataIndex(NAME, half.offsets)
    metadata.storage_data[index] = metadata.storage_data[first(metadata)]


REFUSED = {
    "absolute path": (place(relative_path="/etc/hostname"), "points outside the folder"),
    "path upwards": (place(relative_path="../step-00000005/__0_0.distcp"), "points outside the folder"),
    "device": (place(relative_path="/dev/zero", offset=0, length=2**40), "points outside the folder"),
    "the folder itself": (place(relative_path="."), "points outside the folder"),
    "pipe": (place(relative_path="pipe"), "pipe is not a plain file"),
    "link": (place(relative_path="link"), "link is a symbolic link"),
    "missing file": (place(relative_path="__9_0.distcp"), "No such file"),
    "negative offset": (place(offset=-5), "don't belong to one tensor each"),
    "huge length": (place(length=2**60), "don't belong to one tensor each"),
    "no bytes": (place(length=0), "has 0 bytes"),
    "compressed": (place(transform_descriptors=["zstd"]), "not read here"),
    "bytes of another tensor": (of_another, "has the bytes of another tensor"),
    "a path that is none": (place(relative_path=nested(100)), "in a file named by a tuple"),
    "a name that is none": (
        lambda metadata: metadata.state_dict_metadata.update({nested(100): None}), "named by a tuple",
    ),
    "no place": (lambda metadata: metadata.storage_data.pop(first(metadata)), "chunks and places .* differ"),
    "no chunk": (
        lambda metadata: metadata.state_dict_metadata[NAME].chunks.clear(), "don't cover it exactly once",
    ),
    "half a chunk": (chunk(sizes=torch.Size((4, 3))), "don't cover it exactly once"),
    "a huge chunk": (chunk(sizes=torch.Size((4, 10**12))), "don't cover it exactly once"),
    "a chunk twice": (twice, "don't cover it exactly once"),
    "a chunk of another rank": (chunk(sizes=torch.Size((24,))), "is damaged"),
    "fields missing": (lambda metadata: metadata.state_dict_metadata[NAME].__dict__.clear(), "is damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), REFUSED.values(), ids=REFUSED)
def test_places_and_chunks_are_checked_before_anything_is_opened(checkpoint, edit, message):
    os.mkfifo(checkpoint / "pipe")
    (checkpoint / "link").symlink_to(checkpoint / "__0_0.distcp")
    rewrite(checkpoint, edit)
    target = state(0.0)
    for door in (verify, find_latest, lambda path: load_available(path, target)):
        with pytest.raises(CheckpointError, match=message):
            door(checkpoint)
    assert torch.equal(target[NAME], torch.zeros(4, 6))


def as_bytes(mark: Path) -> Callable[[Metadata], None]:
    """Makes a tensor a byte entry, with the attribute that a comparison of shapes looks for."""

    def edit(metadata: Metadata) -> None:
        entry = BytesStorageMetadata()
        entry.size = metadata.state_dict_metadata[NAME].size
        metadata.state_dict_metadata[NAME] = entry
        del metadata.storage_data[first(metadata)]
        metadata.storage_data[MetadataIndex(NAME)] = _StorageInfo("evil.distcp", 0, len(payload(mark)))

    return edit


def hurt_entry(checkpoint: Path, mark: Path) -> None:
    (checkpoint / "evil.distcp").write_bytes(payload(mark))
    rewrite(checkpoint, as_bytes(mark), "evil.distcp")


def hurt_metadata(checkpoint: Path, mark: Path) -> None:
    rewrite(checkpoint, lambda metadata: setattr(metadata, "planner_data", PickledCode(mark)))


def hurt_chunk(checkpoint: Path, mark: Path) -> None:
    (checkpoint / "evil.distcp").write_bytes(payload(mark))

    def edit(metadata: Metadata) -> None:
        metadata.storage_data = {
            index: dataclasses.replace(
                stored, relative_path="evil.distcp", offset=0, length=len(payload(mark))
            )
            for index, stored in metadata.storage_data.items()
            if index.fqn == NAME
        }
        metadata.state_dict_metadata = {NAME: metadata.state_dict_metadata[NAME]}

    rewrite(checkpoint, edit, "evil.distcp")


HURTS = {
    "byte entry": (hurt_entry, f"'{NAME}' is a BytesStorageMetadata"),
    "table of contents": (hurt_metadata, "names posix.mkdir"),
    "tensor entry": (hurt_chunk, "names posix.mkdir"),
}


@pytest.mark.parametrize(("hurt", "message"), HURTS.values(), ids=HURTS)
def test_no_entry_of_any_type_runs_code(checkpoint, tmp_path, hurt, message):
    mark = tmp_path / "ran"
    hurt(checkpoint, mark)
    with pytest.raises(CheckpointError, match=message):
        load_available(find_latest(checkpoint).path, {NAME: torch.zeros(4, 6)})
    assert not mark.exists()


def test_the_planner_itself_refuses_bytes(tmp_path):
    index = MetadataIndex(NAME)
    item = ReadItem(LoadItemType.BYTE_IO, index, torch.Size(()), index, torch.Size(()), torch.Size(()))
    with pytest.raises(CheckpointError, match=f"{NAME} holds bytes"):
        TensorPlanner().load_bytes(item, io.BytesIO(payload(tmp_path / "ran")))
    assert not (tmp_path / "ran").exists()


def test_a_file_that_the_manifest_does_not_list_is_not_read(checkpoint):
    (checkpoint / "__0_0.distcp").rename(checkpoint / "free.distcp")

    def edit(metadata: Metadata) -> None:
        metadata.storage_data = {
            index: dataclasses.replace(stored, relative_path="free.distcp")
            for index, stored in metadata.storage_data.items()
        }

    (checkpoint / "__0_0.distcp").write_bytes((checkpoint / "free.distcp").read_bytes())
    rewrite(checkpoint, edit)
    with pytest.raises(CheckpointError, match=r"uses free\.distcp, which manifest\.json does not list"):
        verify(checkpoint)


def test_a_memo_index_allocates_nothing(checkpoint):
    # LONG_BINPUT 2**32 - 1: the unpickler in C would make a table of that many entries.
    (checkpoint / ".metadata").write_bytes(b"\x80\x04]r\xff\xff\xff\xff.")
    rehash(checkpoint, ".metadata")
    with pytest.raises(CheckpointError, match=r"\.metadata holds a list"):
        verify(checkpoint)


def test_no_class_and_no_function_is_changed(checkpoint):
    """BUILD with a pair sets attributes, of classes and functions too."""
    shared = {
        b"ctorch.distributed.checkpoint.metadata\nMetadata\n": (Metadata, "type"),
        b"cpathlib\nPosixPath\n": (Path, "type"),
        b"ctorch.serialization\n_get_layout\n": (torch.serialization._get_layout, "function"),
    }
    for named, (target, kind) in shared.items():
        (checkpoint / ".metadata").write_bytes(b"\x80\x02" + named + b"N}X\x04\x00\x00\x00evilI1\ns\x86b.")
        rehash(checkpoint, ".metadata")
        with pytest.raises(CheckpointError, match=f"sets fields of a {kind}"):
            verify(checkpoint)
        assert not hasattr(target, "evil")


def test_pipes_and_links_in_place_of_files_are_named(checkpoint):
    for name in (".metadata", "__0_0.distcp", "manifest.json"):
        kept = checkpoint / name
        aside = kept.rename(checkpoint.with_name("aside"))
        os.mkfifo(kept)
        with pytest.raises(CheckpointError, match=f"{name} (is not a plain file|can't be read)"):
            find_latest(checkpoint.parent)
        kept.unlink()
        kept.symlink_to(aside)
        with pytest.raises(CheckpointError, match=f"{name} is a symbolic link"):
            find_latest(checkpoint.parent)
        kept.unlink()
        aside.rename(kept)
    assert find_latest(checkpoint.parent).path == checkpoint


def saved(tensor: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
     torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (0, 2)])
def test_a_chunk_is_what_torch_saved(dtype, shape):
    tensor = torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)
    read = read_chunk(saved(tensor), dtype, shape)
    assert torch.equal(read, torch.load(io.BytesIO(saved(tensor)), weights_only=True))
    turned = tensor.clone().t() if len(shape) == 2 else tensor
    assert torch.equal(read_chunk(saved(turned), dtype, turned.shape), turned)


def changed(edit: Callable[[dict[str, bytes]], object], compress: bool = False) -> bytes:
    """A saved tensor of three numbers whose records were changed."""
    with zipfile.ZipFile(io.BytesIO(saved(torch.ones(3)))) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    edit(records)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def set_record(name: str, old: bytes, new: bytes) -> Callable[[dict[str, bytes]], object]:
    return lambda records: records.update({f"archive/{name}": records[f"archive/{name}"].replace(old, new)})


FIELDS = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x04\x00\x00\x00evilI1\ns\x86b."
CHUNKS = {
    "no archive": (b"nothing", "BadZipFile"),
    "two tensors": (saved([torch.ones(3), torch.ones(3)]), "something other than"),
    "another type": (saved(torch.ones(3, dtype=torch.float64)), "something other than"),
    "another shape": (saved(torch.ones(4)), "something other than"),
    "a view of more": (saved(torch.ones(6)[:3]), "has 24 bytes for 3"),
    "one number for all": (saved(torch.ones(1).expand(3)), "has 4 bytes for 3"),
    "strides beyond": (changed(set_record("data.pkl", b"K\x01\x85", b"K\x09\x85")), "strides leave"),
    "an offset": (changed(set_record("data.pkl", b"QK\x00", b"QK\x01")), "strides leave"),
    "inflated": (changed(lambda records: None, compress=True), "a record is compressed"),
    "another byte order": (changed(set_record("byteorder", b"little", b"big")), "byte order"),
    "fields of a function": (
        changed(lambda records: records.update({"archive/data.pkl": FIELDS})),
        "sets fields",
    ),
    "a short record": (changed(set_record("data/0", b"\x00\x00\x80\x3f", b"")), "bytes for 3"),
}


@pytest.mark.parametrize(("data", "message"), CHUNKS.values(), ids=CHUNKS)
def test_anything_but_the_expected_tensor_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        read_chunk(data, torch.float32, (3,))
