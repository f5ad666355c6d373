"""Encodes a source once into a folder of latents; what is there is kept, and processes share the work."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vtp_core.artefact.latent_manifest import LISTED, MANIFEST, LatentManifest, read_manifest
from vtp_core.artefact.latent_shards import ShardContent, write_shard
from vtp_core.atomic import sweep
from vtp_core.data.crops.geometry import center_crop
from vtp_core.data.loading.workers import prepare_worker, read_all
from vtp_core.data.source import BadSample, Sample, Source
from vtp_core.encoded import require_finite
from vtp_core.errors import DataError
from vtp_core.evaluation.progress import Advance, Show
from vtp_core.latents.files import open_file
from vtp_core.latents.stored import all_left_out, measured
from vtp_core.latents.tar_shard import write_tar
from vtp_core.pixels import normalize
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import Size, sides

SHARD_SAMPLES = 4096
"""Most samples a file by default."""
SHARD_BYTES = 256_000_000
"""Most bytes of latents a file by default; about three times as much memory is taken while it is written."""


def encode_source(
    source: Source,
    folder: Path,
    manifest: LatentManifest,
    model: Callable[[], Tokenizer],
    *,
    rows: int,
    show: Show,
    workers: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> None:
    """Encodes what is missing; several processes that call it with one folder take different files.

    A file depends on the manifest and `rows` alone: one that another process wrote is the same bit for bit.

    Args:
        source: The images.
        folder: Where files and manifest go.
        manifest: The manifest of the folder, not yet complete.
        model: Loads the tokenizer; called if something is missing.
        rows: Images at a time.
        show: Shows the progress.
        workers: Processes that read images; 0: this one.
        rank: Of this process among those that were started together: it begins with files of its own.
        ranks: Their number.

    Raises:
        DataError: No image can be read.
        NumericError: A latent is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder, {MANIFEST, *manifest.shards}, seconds=60)
    if read_manifest(folder) is None:
        manifest.write(folder)
    # First what no other process works at, then wait for the others, and do what they left.
    for wait in (False, True):
        missing = [k for k, name in enumerate(manifest.shards) if not (folder / name).exists()]
        if not missing:
            break
        tokenizer = model()
        reading = _Reading(source, manifest, rows, workers)
        own = [k for k in missing if k % ranks == rank]
        total = sum(len(manifest.positions(k)) for k in own)
        with show(f"encoding {manifest.source} with {manifest.tokenizer.name}", total) as advance:
            for k in [*own, *(k for k in missing if k not in own)]:
                with _claimed(folder / f".{manifest.shards[k]}.lock", wait=wait) as claimed:
                    if claimed and not (folder / manifest.shards[k]).exists():
                        _encode_shard(tokenizer, reading, folder, manifest, k, advance)
    with _claimed(folder / ".manifest.lock", wait=True):
        found = read_manifest(folder)
        if found is None or not found.complete:
            _completed(folder, manifest).write(folder)
    for lock in folder.glob(".*.lock"):
        lock.unlink(missing_ok=True)


@contextmanager
def _claimed(path: Path, *, wait: bool) -> Iterator[bool]:
    """Whether this process may do the work that a lock stands for."""
    lock = FileLock(path, timeout=-1 if wait else 0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError):  # a file system without locks: work may be done twice
        pass
    try:
        yield True
    finally:
        lock.release()


def _encode_shard(
    model: Tokenizer, reading: _Reading, folder: Path, manifest: LatentManifest, number: int, advance: Advance
) -> None:
    """Writes one file."""
    fields = reading.fields
    kept: list[tuple[int, Sample]] = []
    left_out: dict[str, list[str]] = {}
    made: list[dict[str, Tensor]] = [_empty(model, manifest)]
    with closing(reading.batches(manifest.positions(number))) as parts:
        for part in parts:
            images = []
            for position, sample, image in part:
                if isinstance(sample, BadSample):
                    left_out.setdefault(sample.reason, []).append(sample.key)
                    continue
                assert image is not None
                images.append(image)
                kept.append((position, sample))
            if images:
                made.append(_made(model, torch.stack(images), manifest))
            advance(len(part))
    arrays = {name: torch.cat([part[name] for part in made]).numpy() for name in made[0]}
    made.clear()
    labels = [sample.label for _, sample in kept]
    texts = [sample.text for _, sample in kept]
    content = ShardContent(
        latents=arrays.pop("latents"),
        flips=arrays.pop("latents_flip", None),
        keys=[sample.key for _, sample in kept],
        index=[position for position, _ in kept],
        labels=[-1 if label is None else label for label in labels] if "label" in fields else None,
        texts=[text or "" for text in texts] if "text" in fields else None,
        further=arrays,
        left_out=left_out,
        tokenizer=manifest.tokenizer,
    )
    write = write_tar if manifest.layout == "tar" else write_shard
    write(folder / manifest.shards[number], content)


@torch.no_grad()
def _made(model: Tokenizer, pixels: Tensor, manifest: LatentManifest) -> dict[str, Tensor]:
    """What a file holds of images (B, 3, H, W) uint8, on the CPU: latents and `parts`, mirror images too."""
    unit = normalize(pixels.to(model.device).to(model.dtype) / 255)
    found: dict[str, Tensor] = {}
    for suffix, shown in {"": unit, **({"_flip": unit.flip(-1)} if manifest.flips else {})}.items():
        encoded = model.encode(shown)
        require_finite("encode", {"the latent is": encoded.latent}, model)
        found[f"latents{suffix}"] = encoded.latent.float().cpu()
        if "logvar" in manifest.parts:
            found[f"logvar{suffix}"] = encoded.latent_dist.logvar.float().cpu()
        if "indices" in manifest.parts:
            assert encoded.indices is not None
            found[f"indices{suffix}"] = encoded.indices.to("cpu", torch.int32)
    return found


def _empty(model: Tokenizer, manifest: LatentManifest) -> dict[str, Tensor]:
    """The same of no image: a file of which no image can be read has these shapes."""
    types = {"indices": torch.int32}
    return {
        f"{name}{suffix}": torch.zeros(0, *shape, dtype=types.get(name))
        for suffix in ("", *(["_flip"] if manifest.flips else []))
        for name, shape in _shapes(model, manifest.image_size, manifest.parts).items()
    }


def _shapes(model: Tokenizer, size: Size, parts: Sequence[str]) -> Mapping[str, tuple[int, ...]]:
    """Shapes (d, h, w) of an image's arrays; each number has four bytes."""
    channels = {"latents": model.latent_channels, "logvar": model.latent_channels}
    channels["indices"] = len(model.bottleneck.codebook_sizes)
    return {name: (channels[name], *model.encoder.grid(*sides(size))) for name in ("latents", *parts)}


def default_shard_samples(model: Tokenizer, size: Size, *, flips: bool, parts: Sequence[str] = ()) -> int:
    """Samples a file: as many as have `SHARD_BYTES` of latents, at most `SHARD_SAMPLES`.

    Args:
        model: The tokenizer.
        size: Side of the images in pixels, or height and width.
        flips: Whether mirror images are encoded too.
        parts: What is kept beside latents.
    """
    numbers = sum(map(math.prod, _shapes(model, size, parts).values()))
    return max(1, min(SHARD_SAMPLES, SHARD_BYTES // (4 * numbers * (2 if flips else 1))))


def parts_of(model: Tokenizer, size: Size) -> tuple[Literal["logvar", "indices"], ...]:
    """What a tokenizer makes beside latents: log variances if it is variational, codes if it is discrete."""
    with torch.no_grad():
        encoded = model.encode(torch.zeros(1, 3, *sides(size), device=model.device, dtype=model.dtype))
    if encoded.indices is not None:
        return ("indices",)
    return () if encoded.latent_dist.deterministic else ("logvar",)


_Row = tuple[int, Sample | BadSample, Tensor | None]


class _Reading(Dataset[_Row]):
    """Reads samples of a source and cuts their images, in this process or in workers."""

    def __init__(self, source: Source, manifest: LatentManifest, rows: int, workers: int) -> None:
        self.source, self.size, self.rows, self.workers = source, manifest.image_size, rows, workers
        self.fields = frozenset({"image", *manifest.fields}) - {"latent"}

    def __getitem__(self, position: int) -> _Row:
        """Position in the source, the sample without its image, and the image (3, H, W) uint8."""
        try:
            sample = self.source.read(position, self.fields)
        except BadSample as error:
            return position, error, None
        assert sample.image is not None
        image = center_crop(sample.image, self.size)
        return position, Sample(key=sample.key, text=sample.text, label=sample.label), image

    def batches(self, positions: range) -> Generator[list[_Row]]:
        """Samples in order, `rows` at a time."""
        starts = range(positions.start, positions.stop, self.rows)
        parts = [list(range(start, min(start + self.rows, positions.stop))) for start in starts]
        loader: DataLoader[Any] = DataLoader(
            self, batch_sampler=parts, collate_fn=list, num_workers=self.workers,
            multiprocessing_context="fork" if self.workers else None,
            worker_init_fn=prepare_worker if self.workers else None,
            # Of its own: a run that encodes before its first step draws the same numbers after it.
            generator=torch.Generator(),
        )  # fmt: skip
        advice = "lower --workers, or give the container more; the files that are written are kept"
        return read_all(loader, setting="--workers", advice=advice)


def _completed(folder: Path, manifest: LatentManifest) -> LatentManifest:
    shards = [open_file(folder / name) for name in manifest.shards]
    left_out = all_left_out(shards)
    counts = {reason: len(keys) for reason, keys in left_out.items()}
    if not any(map(len, shards)):
        raise DataError(
            f"{manifest.source}: no image can be read ({json.dumps(counts)}); run `vtp data check`"
        )
    mean, deviation = measured(shards)
    return manifest.model_copy(
        update={
            "complete": True,
            "encoded": sum(map(len, shards)),
            "left_out": {reason: tuple(keys[:LISTED]) for reason, keys in left_out.items()},
            "left_out_counts": counts,
            "latents_mean": mean,
            "latents_std": deviation,
        }
    )
