"""``vtp encode --source``: all images of a source to a folder of latents."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from vtp_core.artefact.latent_manifest import MANIFEST, LatentManifest, read_manifest
from vtp_core.cli.arguments.held_out import read_source
from vtp_core.cli.arguments.options import torch_device
from vtp_core.cli.output import check_empty_folder, check_folder
from vtp_core.errors import UsageError
from vtp_core.recipe import load_recipe
from vtp_core.recipe.history import RESOLVED
from vtp_core.recipe.shipped import shipped_recipes

if TYPE_CHECKING:
    import torch

    from vtp_core.config import ComponentConfig
    from vtp_core.plugins import Plugins
    from vtp_core.recipe.tables.data import DecodeLimits
    from vtp_core.tokenizer import Tokenizer

STATISTICS = "latents_stats.pt"
"""Mean and deviation (1, d, 1, 1) where LightningDiT's data set looks for them: tensors alone, which
`torch.load(weights_only=True)` reads. Nothing here reads the file: the manifest has the numbers."""


@dataclass(frozen=True, kw_only=True)
class SourceRequest:
    """What ``vtp encode --source`` was asked for; its options."""

    tokenizer: str
    source: str
    folder: Path
    rows: int
    layout: Literal["safetensors", "tar"]
    flips: bool
    shard_samples: int | None
    workers: int | None
    allow_incomplete: bool
    device: str
    fast: bool
    as_json: bool


def encode_to_folder(asked: SourceRequest, plugins: Plugins) -> None:
    """Encodes what is missing in a folder, on this rank, and prints what the folder has.

    Raises:
        UsageError: The folder holds something else, or latents that were made in another way.
        CheckpointError: There is no such tokenizer.
        DataError: The source can't be read.
        NumericError: A latent is not finite.
    """
    from vtp_core.artefact.finding import find_tokenizer
    from vtp_core.data.completeness import require_whole
    from vtp_core.data.opening import Sources

    check_folder("--output", asked.folder)
    begun = read_manifest(asked.folder)
    if begun is None and not _hidden_only(asked.folder):
        begun = read_manifest(asked.folder)  # another rank may have begun meanwhile
        if begun is None:
            check_empty_folder("--output", asked.folder)
    found = find_tokenizer(asked.tokenizer, plugins)
    table, limits = _table(asked.source, plugins)
    images = Sources(plugins, limits).open(table)
    if "image" not in images.fields:
        raise UsageError(f"--source {table.use}: it has no images to encode")
    if not asked.allow_incomplete:
        require_whole(f"--source {table.use}", images)

    from vtp_core.artefact.loading import load
    from vtp_core.artefact.preparation import prepare
    from vtp_core.evaluation.progress import silent
    from vtp_core.latents.encoding import default_shard_samples, encode_source, parts_of
    from vtp_core.latents.folder import identity, new_manifest
    from vtp_core.run.progress import show_pass

    rank, ranks = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    device = _device(asked.device)
    model = load(found, plugins=plugins).to(device)
    name, size = identity(found, lambda: model)  # before the weights are packed
    prepared = list(prepare(model, plugins)) if asked.fast else []
    parts = parts_of(model, size)
    shard_samples = asked.shard_samples
    if shard_samples is None and begun is not None:
        shard_samples = begun.shard_samples
    if shard_samples is None:
        shard_samples = default_shard_samples(model, size, flips=asked.flips, parts=parts)
    manifest = new_manifest(
        table,
        images,
        name,
        size,
        flips=asked.flips,
        shard_samples=shard_samples,
        layout=asked.layout,
        parts=parts,
        numerics="; ".join([f"float32 on {device.type}, {asked.rows} images at a time", *prepared]),
    )
    if begun is not None and (difference := begun.difference(manifest)) is not None:
        raise UsageError(
            f"--output {asked.folder}: was begun with other settings: {difference}. Give the same "
            "settings, or a new folder"
        )
    first = rank == 0
    if first:
        for line in prepared:
            click.echo(line, err=True)
    encode_source(
        images,
        asked.folder,
        begun or manifest,
        lambda: model,
        rows=asked.rows,
        show=show_pass if first else silent,
        workers=_workers(device) if asked.workers is None else asked.workers,
        rank=rank,
        ranks=ranks,
    )
    if first:
        done = read_manifest(asked.folder)
        assert done is not None
        if done.layout == "safetensors":
            _write_statistics(asked.folder / STATISTICS, done)
        _tell(asked, done, model)


def _write_statistics(path: Path, done: LatentManifest) -> None:
    import torch

    from vtp_core.atomic import replacing_file

    columns: Mapping[str, tuple[float, ...]] = {"mean": done.latents_mean, "std": done.latents_std}
    with replacing_file(path) as file:
        torch.save({key: torch.tensor(values).reshape(1, -1, 1, 1) for key, values in columns.items()}, file)


def _tell(asked: SourceRequest, done: LatentManifest, model: Tokenizer) -> None:
    left_out = done.left_out_numbers()
    if asked.as_json:
        facts = {
            "folder": str(asked.folder), "encoded": done.encoded, "files": len(done.shards),
            "channels": model.latent_channels, "left_out": dict(left_out),
        }  # fmt: skip
        click.echo(json.dumps(facts, indent=2))
        return
    twice = " and mirror images" if done.flips else ""
    click.echo(f"{asked.folder}: latents of {done.encoded} images{twice} in {len(done.shards)} files")
    for reason, count in left_out.items():
        click.echo(f"left out: {reason}: {count} (named in {MANIFEST})", err=True)


def _table(text: str, plugins: Plugins) -> tuple[ComponentConfig, DecodeLimits | None]:
    """The table of a source, and limits on its samples: of a recipe's training data, or as named."""
    kinds = {component.name for component in plugins.components("source")}
    path = Path(text).expanduser()
    is_recipe = path.suffix == ".toml" or (path / RESOLVED).is_file() or text in shipped_recipes()
    if is_recipe and text not in kinds:
        data = load_recipe(text, plugins=plugins).data
        return data.source, data.decode
    return read_source(text, plugins), None


def _hidden_only(folder: Path) -> bool:
    """Whether nothing but what another rank has just begun to write is in a folder."""
    return not folder.is_dir() or all(path.name.startswith(".") for path in folder.iterdir())


def _device(name: str) -> torch.device:
    """The device of this rank: of several with ``cuda``, that of its number on this machine."""
    local = os.environ.get("LOCAL_RANK")
    return torch_device(f"cuda:{local}" if name == "cuda" and local is not None else name)


def _workers(device: torch.device) -> int:
    """Reading processes: on a CPU they would only take turns with the encoder."""
    if device.type == "cpu":
        return 0
    return min(8, max((os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1))
