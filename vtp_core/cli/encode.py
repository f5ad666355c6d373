"""``vtp encode``: images to latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vtp_core.cli.options import fast_option, json_option, plugin_option, tokenizer_argument
from vtp_core.cli.output import check_file
from vtp_core.data.source import BadSample
from vtp_core.errors import DataError, NumericError, UsageError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}


@click.command()
@tokenizer_argument
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="A .safetensors file.")
@click.option("--normalized", is_flag=True, help="Latents of zero mean and unit variance a channel.")
@click.option("--rows", type=click.IntRange(min=1), default=16, show_default=True, help="Images at a time.")
@fast_option(default=True)
@json_option
@plugin_option
def encode(
    tokenizer: str,
    images: tuple[Path, ...],
    output: Path,
    normalized: bool,
    rows: int,
    fast: bool,
    as_json: bool,
    plugin_files: tuple[Path, ...],
) -> None:
    """Encode IMAGES, files or folders, with TOKENIZER.

    TOKENIZER is the folder of a run or of a tokenizer, or the name of one that ships, such as vtp-nano.

    The output holds `latents` (n, d, h, w) float32, `indices` (n, Q, h, w) int64 if the latent is discrete,
    and the names of the images in its metadata. Images that can't be read are named and left out; the exit
    code is then 3, and nothing is written if none is left.
    """
    import json

    from vtp_core.artefact.finding import find_tokenizer
    from vtp_core.plugins import load_plugins

    if output.suffix != ".safetensors":
        raise UsageError(f"{output}: latents are written as .safetensors; give such a name")
    check_file("--output", output)
    plugins = load_plugins(plugin_files)
    folder = find_tokenizer(tokenizer, plugins)
    paths = find_images(images)

    import torch

    from vtp_core.artefact.loading import load
    from vtp_core.artefact.preparation import prepare
    from vtp_core.artefact.weights import write_weights
    from vtp_core.encoded import require_finite
    from vtp_core.run.progress import show_pass
    from vtp_core.tokenizer.checks import check_finite_features, check_finite_latent

    model = load(folder, plugins=plugins)
    for line in prepare(model, plugins) if fast else ():
        click.echo(line, err=True)
    if normalized and "codes" in model.capabilities:
        raise UsageError("--normalized: this tokenizer is discrete; its latents are not normalised")
    tensors: dict[str, list[torch.Tensor]] = {"latents": [], "indices": []}
    names: list[str] = []
    bad: list[BadSample] = []
    with torch.no_grad(), show_pass("encoding", len(paths)) as advance:
        for start in range(0, len(paths), rows):
            batch = []
            for path in paths[start : start + rows]:
                try:
                    batch.append(model.preprocess(_open(path)))
                    names.append(str(path))
                except BadSample as error:
                    bad.append(error)
                    click.echo(f"left out: {error}", err=True)
            advance(len(paths[start : start + rows]))
            if not batch:
                continue
            pixels = torch.cat(batch)
            try:
                if normalized:
                    latent, indices = model.encode_normalized(pixels), None
                    require_finite("encode", {"the latent is": latent}, model)
                else:
                    features = model.features(pixels, model.bottleneck.layers)
                    check_finite_features(features, model.encoder)
                    encoded = model.encode_features(features)
                    check_finite_latent(encoded, model.bottleneck)
                    latent, indices = encoded.latent, encoded.indices
            except NumericError as error:
                image = names[-len(batch) :][error.row or 0]
                raise NumericError(f"{image}: {error}; nothing is written") from error
            tensors["latents"].append(latent.float())
            if indices is not None:
                tensors["indices"].append(indices)
    if not names:
        raise DataError(f"no image can be read, nothing is written; the first: {bad[0]}")
    whole = {name: torch.cat(parts) for name, parts in tensors.items() if parts}
    output.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"images": json.dumps(names), "normalized": json.dumps(normalized)}
    write_weights(output, whole, metadata)
    if as_json:
        facts = {
            "file": str(output),
            "latents": list(whole["latents"].shape),
            "left_out": list(map(str, bad)),
        }
        click.echo(json.dumps(facts, indent=2))
    else:
        shape = " x ".join(str(size) for size in whole["latents"].shape)
        click.echo(f"{output}: latents {shape}")
    if bad:
        raise DataError(f"{len(bad)} of {len(paths)} images can't be read and were left out of {output}")


def _open(path: Path) -> Image.Image:
    from PIL import Image

    from vtp_core.data.decoding import decode_image, read_file
    from vtp_core.recipe.tables.data import DecodeLimits

    limits = DecodeLimits()
    return Image.fromarray(decode_image(read_file(path, str(path), limits.max_bytes), str(path), limits))


def find_images(paths: tuple[Path, ...]) -> list[Path]:
    """The given files, and all images below the given folders but hidden ones, sorted within each folder.

    Raises:
        DataError: A path is missing, or there is no image.
    """
    found: list[Path] = []
    hidden: list[Path] = []
    for path in paths:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.suffix.lower() in SUFFIXES and file.is_file():
                    inside = file.relative_to(path).parts
                    (hidden if any(part.startswith(".") for part in inside) else found).append(file)
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"{path}: no such file or folder")
    if hidden:
        click.echo(f"skipped {len(hidden)} hidden files ({hidden[0]}); name them to encode them", err=True)
    if not found:
        raise DataError(f"{paths[0]}: no image with a suffix of {', '.join(sorted(SUFFIXES))}")
    return found
