"""``vtp encode``: images to latents."""

from __future__ import annotations

from pathlib import Path

import click

from vtp_core.cli.options import fast_option, plugin_option
from vtp_core.errors import DataError, UsageError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}


@click.command()
@click.argument("artefact", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A .safetensors file.")
@click.option("--normalized", is_flag=True, help="Latents of zero mean and unit variance a channel.")
@click.option("--rows", type=click.IntRange(min=1), default=16, show_default=True, help="Images at a time.")
@fast_option(default=True)
@plugin_option
def encode(
    artefact: Path,
    images: tuple[Path, ...],
    output: Path,
    normalized: bool,
    rows: int,
    fast: bool,
    plugin_files: tuple[Path, ...],
) -> None:
    """Encode IMAGES, files or folders, with the tokenizer in the folder ARTEFACT.

    The output holds `latents` (n, d, h, w) float32, `indices` (n, Q, h, w) int64 if the latent is discrete,
    and the names of the images in its metadata.
    """
    import json

    import torch
    from PIL import Image

    from vtp_core.artefact.loading import load
    from vtp_core.artefact.preparation import prepare
    from vtp_core.artefact.weights import write_weights
    from vtp_core.plugins import load_plugins

    if output.suffix != ".safetensors":
        raise UsageError(f"{output}: latents are written as .safetensors; give such a name")
    paths = find_images(images)
    plugins = load_plugins(plugin_files)
    model = load(artefact, plugins=plugins)
    for line in prepare(model, plugins) if fast else ():
        click.echo(line, err=True)
    if normalized and "codes" in model.capabilities:
        raise UsageError("--normalized: this tokenizer is discrete; its latents are not normalised")
    tensors: dict[str, list[torch.Tensor]] = {"latents": [], "indices": []}
    with torch.no_grad():
        for start in range(0, len(paths), rows):
            opened = []
            for path in paths[start : start + rows]:
                try:
                    with Image.open(path) as image:
                        image.load()
                        opened.append(image.copy())
                except (OSError, ValueError, Image.DecompressionBombError) as error:
                    raise DataError(f"{path}: can't be read ({error}); remove or repair it") from error
            pixels = model.preprocess(opened)
            if normalized:
                tensors["latents"].append(model.encode_normalized(pixels).float())
                continue
            encoded = model.encode(pixels)
            tensors["latents"].append(encoded.latent.float())
            if encoded.indices is not None:
                tensors["indices"].append(encoded.indices)
    whole = {name: torch.cat(parts) for name, parts in tensors.items() if parts}
    output.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"images": json.dumps([str(path) for path in paths]), "normalized": json.dumps(normalized)}
    write_weights(output, whole, metadata)
    shape = " x ".join(str(size) for size in whole["latents"].shape)
    click.echo(f"{output}: latents {shape}")


def find_images(paths: tuple[Path, ...]) -> list[Path]:
    """The given files, and all images below the given folders, sorted within each folder.

    Raises:
        DataError: A path is missing, or there is no image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            found += sorted(inside)
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"{path}: no such file or folder")
    if not found:
        raise DataError(f"{paths[0]}: no image with a suffix of {', '.join(sorted(SUFFIXES))}")
    return found
