"""Encodes a source once into a folder of latents; what is there is kept, and processes share the work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from vtp_core.artefact.latent_manifest import LatentManifest, read_manifest
from vtp_core.artefact.latent_shards import LatentShard, write_shard
from vtp_core.data.crops.geometry import center_crop
from vtp_core.data.source import BadSample, Sample, Source
from vtp_core.encoded import require_finite
from vtp_core.errors import DataError
from vtp_core.evaluation.progress import Show
from vtp_core.pixels import normalize
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import sides
from vtp_plugins.latents.stored import measured


def encode_source(
    source: Source,
    folder: Path,
    manifest: LatentManifest,
    model: Callable[[], Tokenizer],
    *,
    rows: int,
    show: Show,
) -> None:
    """Encodes what is missing; several processes that call it with one folder take different files.

    Args:
        source: The images.
        folder: Where files and manifest go.
        manifest: The manifest of the folder, not yet complete.
        model: Loads the tokenizer; called if something is missing.
        rows: Images at a time.
        show: Shows the progress.

    Raises:
        DataError: No image can be read.
        NumericError: A latent is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if read_manifest(folder) is None:
        manifest.write(folder)
    # First what no other process works at, then wait for the others, and do what they left.
    for wait in (False, True):
        missing = [k for k, name in enumerate(manifest.shards) if not (folder / name).exists()]
        if not missing:
            break
        tokenizer = model()
        total = sum(len(manifest.positions(k)) for k in missing)
        with show(f"encoding {manifest.source} with {manifest.tokenizer.name}", total) as advance:
            for k in missing:
                with _claimed(folder / f".{manifest.shards[k]}.lock", wait=wait) as own:
                    if own and not (folder / manifest.shards[k]).exists():
                        _encode_shard(tokenizer, source, folder, manifest, k, rows, advance)
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
    model: Tokenizer,
    source: Source,
    folder: Path,
    manifest: LatentManifest,
    number: int,
    rows: int,
    advance: Callable[[int], None],
) -> None:
    """Writes one file."""
    fields = frozenset({"image", *manifest.fields}) - {"latent"}
    positions = manifest.positions(number)
    kept: list[tuple[int, Sample]] = []
    left_out: dict[str, list[str]] = {}
    latents: list[Tensor] = []
    flips: list[Tensor] = []
    for start in range(positions.start, positions.stop, rows):
        part = range(start, min(start + rows, positions.stop))
        images = []
        for position in part:
            try:
                sample = source.read(position, fields)
            except BadSample as error:
                left_out.setdefault(error.reason, []).append(error.key)
                continue
            assert sample.image is not None
            images.append(center_crop(sample.image, manifest.image_size))
            kept.append((position, Sample(key=sample.key, text=sample.text, label=sample.label)))
        if images:
            pixels = torch.stack(images)
            latents.append(_latents(model, pixels))
            if manifest.flips:
                flips.append(_latents(model, pixels.flip(-1)))
        advance(len(part))
    grid = model.encoder.grid(*sides(manifest.image_size))
    empty = torch.zeros(
        0, model.latent_channels, *grid
    )  # a file of which no image can be read has this shape
    labels = [sample.label for _, sample in kept]
    texts = [sample.text for _, sample in kept]
    write_shard(
        folder / manifest.shards[number],
        torch.cat([empty, *latents]).numpy(),
        flips=torch.cat([empty, *flips]).numpy() if manifest.flips else None,
        keys=[sample.key for _, sample in kept],
        index=[position for position, _ in kept],
        labels=[-1 if label is None else label for label in labels] if "label" in fields else None,
        texts=[text or "" for text in texts] if "text" in fields else None,
        left_out=left_out,
        tokenizer=manifest.tokenizer,
    )


@torch.no_grad()
def _latents(model: Tokenizer, pixels: Tensor) -> Tensor:
    """Latents (B, d, h, w) float32 on the CPU of pixels (B, 3, H, W) uint8."""
    unit = pixels.to(model.device).to(model.dtype) / 255
    latent = model.encode(normalize(unit)).latent
    require_finite("encode", {"the latent is": latent}, model)
    return latent.float().cpu()


def _completed(folder: Path, manifest: LatentManifest) -> LatentManifest:
    shards = [LatentShard(folder / name) for name in manifest.shards]
    left_out: dict[str, Sequence[str]] = {}
    for shard in shards:
        for reason, keys in shard.left_out.items():
            left_out[reason] = (*left_out.get(reason, ()), *keys)
    if not any(map(len, shards)):
        found = json.dumps({reason: len(keys) for reason, keys in left_out.items()})
        raise DataError(f"{manifest.source}: no image can be read ({found}); run `vtp data check`")
    mean, deviation = measured(shards)
    return manifest.model_copy(
        update={
            "complete": True,
            "encoded": sum(map(len, shards)),
            "left_out": left_out,
            "latents_mean": mean,
            "latents_std": deviation,
        }
    )
