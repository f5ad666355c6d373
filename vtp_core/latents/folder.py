"""What a folder of latents is made of: tokenizer, images, how they are encoded. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vtp_core.artefact.config import is_artefact, read_config
from vtp_core.artefact.finding import run_of_checkpoint
from vtp_core.artefact.fingerprint import TokenizerName
from vtp_core.artefact.latent_manifest import MOST_SHARDS, LatentManifest, shard_count
from vtp_core.config import ComponentConfig
from vtp_core.data.source import SizedSource, Source
from vtp_core.errors import DataError, UsageError
from vtp_core.view import Size

if TYPE_CHECKING:
    from vtp_core.tokenizer import Tokenizer


def new_manifest(
    table: ComponentConfig,
    images: Source,
    tokenizer: TokenizerName,
    size: Size,
    *,
    flips: bool,
    shard_samples: int,
    layout: Literal["safetensors", "tar"] = "safetensors",
    parts: Sequence[Literal["logvar", "indices"]] = (),
    numerics: str = "",
) -> LatentManifest:
    """The manifest of a folder that is to be encoded; see `LatentManifest` for the arguments.

    Args:
        table: Table of the source of images.
        images: The opened source.
        tokenizer: What encodes.
        size: Side of the images in pixels, or height and width.
        flips: Whether mirror images are encoded too.
        shard_samples: Samples a file.
        layout: Kind of the files.
        parts: What is kept beside latents.
        numerics: What rounding depends on.

    Raises:
        DataError: There is no sample.
        UsageError: It would have too many files.
    """
    import vtp_core
    from vtp_core.evaluation.opening import set_name

    if (count := shard_count(len(images), shard_samples)) > MOST_SHARDS:
        least = shard_count(len(images), MOST_SHARDS)
        raise UsageError(
            f"{len(images)} samples, {shard_samples} a file, are {count} files, and a folder has "
            f"{MOST_SHARDS} at most: put at least {least} samples in a file (shard_samples)"
        )
    return LatentManifest(
        vtp_version=vtp_core.__version__,
        tokenizer=tokenizer,
        source=set_name(table),
        samples=len(images),
        image_size=size,
        flips=flips,
        shard_samples=shard_samples,
        classes=tuple(images.classes),
        fields=("latent", *sorted(images.fields - {"latent", "image"})),
        layout=layout,
        parts=tuple(parts),
        images=images_digest(images),
        numerics=numerics,
    )


def images_digest(images: Source) -> str:
    """16 hexadecimal digits of the keys of all samples and the sizes of their stored images, in order.

    No image is read: one that was replaced by another of equal size and name is not noticed.

    Raises:
        DataError: There is no sample.
    """
    if not len(images):
        raise DataError("the source has no sample to encode; check its path, part and exclude")
    digest = hashlib.sha256()
    for position in range(len(images)):
        key = images.read(position, frozenset()).key
        size = images.image_bytes(position) if isinstance(images, SizedSource) else None
        digest.update(json.dumps([key, size]).encode())
    return digest.hexdigest()[:16]


def identity(folder: Path, model: Callable[[], Tokenizer]) -> tuple[TokenizerName, Size]:
    """Name and image size of the tokenizer of a folder; loads it only if its config does not tell.

    Args:
        folder: As of `vtp_core.artefact.finding.find_tokenizer`.
        model: Loads it.

    Raises:
        DataError: It states no image size.
    """
    if run_of_checkpoint(folder) is None and is_artefact(folder):
        config = read_config(folder)
        if config.fingerprint is not None:
            return TokenizerName(name=config.recipe, fingerprint=config.fingerprint), config.image_size
    from vtp_core.artefact.fingerprint import name_of

    loaded = model()
    if loaded.config is None:
        raise DataError(f"{folder}: a tokenizer without a config has no image size")
    return name_of(loaded, loaded.config.recipe or folder.name), loaded.config.image_size
