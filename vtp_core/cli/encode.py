"""``vtp encode``: images to latents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from vtp_core.cli.arguments.options import (
    device_option,
    fast_option,
    json_option,
    plugin_option,
    tokenizer_argument,
    torch_device,
)
from vtp_core.cli.output import check_file
from vtp_core.data.files import UNREADABLE, files_below
from vtp_core.data.source import BadSample, as_utf8
from vtp_core.errors import DataError, NumericError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from vtp_core.tokenizer import Tokenizer

_LONGEST = 8  # longer side over shorter one of an image that is encoded whole
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}


@click.command()
@tokenizer_argument
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="A .safetensors file; with --source a folder.",
)
@click.option(
    "--source",
    metavar="SOURCE",
    help="Instead of IMAGES: a recipe or run (its training data), a source's name or inline table, or a "
    "path that a source recognises.",
)
@click.option("--normalized", is_flag=True, help="Latents of zero mean and unit variance a channel.")
@click.option("--rows", type=click.IntRange(min=1), default=16, show_default=True, help="Images at a time.")
@click.option(
    "--layout",
    type=click.Choice(["safetensors", "tar"]),
    default="safetensors",
    show_default=True,
    help="Of a source: LightningDiT's files, or tar shards.",
)
@click.option(
    "--flips/--no-flips", default=True, show_default=True, help="Of a source: encode mirror images too."
)
@click.option(
    "--shard-samples",
    type=click.IntRange(min=1),
    help="Of a source: samples a file; what is lost when it is stopped. Default: as many as have 256 MB of "
    "latents, at most 4096; of a folder that was begun, its own.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Of a source: processes that read images; default: 0 on a CPU, else up to 8.",
)
@click.option(
    "--allow-incomplete", is_flag=True, help="Encode what is left where parts of a source can't be read."
)
@device_option
@click.option(
    "--crop", is_flag=True, help="Encode the center of each image, as evaluations do, not all of it."
)
@fast_option
@json_option
@plugin_option
def encode(
    tokenizer: str,
    images: tuple[Path, ...],
    output: Path,
    source: str | None,
    normalized: bool,
    rows: int,
    layout: Literal["safetensors", "tar"],
    flips: bool,
    shard_samples: int | None,
    workers: int | None,
    allow_incomplete: bool,
    device: str,
    crop: bool,
    fast: bool,
    as_json: bool,
    plugin_files: tuple[Path, ...],
) -> None:
    """Encode IMAGES, files or folders, or all images of --source, with TOKENIZER.

    TOKENIZER is the folder of a run or of a tokenizer, or the name of one that ships, such as vtp-nano.

    Of a source the output is a folder: files of latents of images and mirror images (center crops) with
    labels and captions, log variances or codes; their statistics and manifest.json. Called again, a stopped
    encoding goes on; `torchrun --nproc-per-node N -m vtp_core encode ...` shares it. Images that can't be
    read are counted in the manifest.

    Of IMAGES the output holds `latents` (n, d, h, w) float32, `indices` (n, Q, h, w) int64 if the latent is
    discrete, and in its metadata the names of the images and the tokenizer's fingerprint. Whole images are
    encoded: shorter sides have the tokenizer's size, and of images of several shapes there are tensors
    `latents.HxW` for each. Images that can't be read are named and left out; the exit code is then 3, and
    nothing is written if none is left.
    """
    import json

    from vtp_core.artefact.finding import find_tokenizer
    from vtp_core.plugins import load_plugins

    if (source is None) != bool(images):
        raise UsageError("give either IMAGES or --source")
    if source is not None:
        if normalized or crop:
            raise UsageError("--normalized, --crop: latents of --source are center crops, not normalised")
        from vtp_core.cli.encode_source import SourceRequest, encode_to_folder

        request = SourceRequest(
            tokenizer=tokenizer, source=source, folder=output, rows=rows, layout=layout, flips=flips,
            shard_samples=shard_samples, workers=workers, allow_incomplete=allow_incomplete, device=device,
            fast=fast, as_json=as_json,
        )  # fmt: skip
        encode_to_folder(request, load_plugins(plugin_files))
        return
    if output.suffix != ".safetensors":
        raise UsageError(f"{output}: latents are written as .safetensors; give such a name")
    if str(output.absolute()) != as_utf8(str(output.absolute())):
        raise UsageError(f"{output}: safetensors files need a path in UTF-8; give another one")
    check_file("--output", output)
    plugins = load_plugins(plugin_files)
    folder = find_tokenizer(tokenizer, plugins)
    paths = find_images(images)

    import torch

    from vtp_core.artefact.fingerprint import name_of
    from vtp_core.artefact.loading import load
    from vtp_core.artefact.preparation import prepare
    from vtp_core.artefact.weights import write_weights
    from vtp_core.run.progress import show_pass

    model = load(folder, plugins=plugins).to(torch_device(device))
    made_by = name_of(model)  # before the weights are packed
    for line in prepare(model, plugins) if fast else ():
        click.echo(line, err=True)
    if normalized and "codes" in model.capabilities:
        raise UsageError("--normalized: this tokenizer is discrete; its latents are not normalised")
    made: dict[str, list[Tensor]] = {}
    names: dict[str, list[str]] = {}
    waiting: dict[tuple[int, ...], list[tuple[str, Tensor]]] = {}
    bad: list[BadSample] = []

    def flush(batch: list[tuple[str, Tensor]]) -> None:
        """Encodes images of one shape."""
        latent, indices = _encoded(model, batch, normalized=normalized)
        shape = "x".join(str(side) for side in latent.shape[2:])
        names.setdefault(shape, []).extend(name for name, _ in batch)
        made.setdefault(f"latents.{shape}", []).append(latent.float().cpu())
        if indices is not None:
            made.setdefault(f"indices.{shape}", []).append(indices.cpu())

    with torch.no_grad(), show_pass("encoding", len(paths)) as advance:
        for path in paths:
            try:
                pixels = _pixels(model, path, crop=crop)
            except BadSample as error:
                bad.append(error)
                click.echo(f"left out: {error}", err=True)
            else:
                batch = waiting.setdefault(tuple(pixels.shape), [])
                batch.append((str(path), pixels))
                if len(batch) == rows:
                    flush(waiting.pop(tuple(pixels.shape)))
            advance(1)
        for batch in waiting.values():
            flush(batch)
    if not names:
        raise DataError(f"no image can be read, nothing is written; the first: {bad[0]}")
    whole = {name: torch.cat(parts) for name, parts in made.items()}
    listed: object = names
    if len(names) == 1:
        (listed,) = names.values()
        whole = {name.partition(".")[0]: tensor for name, tensor in whole.items()}
    output.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "images": json.dumps(listed),
        "normalized": json.dumps(normalized),
        "tokenizer": made_by.model_dump_json(),
    }
    write_weights(output, whole, metadata)
    shapes = {name: list(tensor.shape) for name, tensor in whole.items() if name.startswith("latents")}
    if as_json:
        latents = shapes.get("latents", shapes)
        facts = {"file": str(output), "latents": latents, "left_out": list(map(str, bad))}
        click.echo(json.dumps(facts, indent=2))
    else:
        for name, shape in shapes.items():
            click.echo(f"{output}: {name} {' x '.join(map(str, shape))}")
    if bad:
        raise DataError(f"{len(bad)} of {len(paths)} images can't be read and were left out of {output}")


def _pixels(model: Tokenizer, path: Path, *, crop: bool) -> Tensor:
    """Pixels (1, 3, H, W) of a file: all of it, or its center."""
    from vtp_core.data.crops.geometry import resize_whole
    from vtp_core.data.decoding import decode_image, read_file
    from vtp_core.recipe.tables.data import DecodeLimits
    from vtp_core.tokenizer.checks import checked_size

    limits, patch = DecodeLimits(), model.encoder.patch
    image = decode_image(read_file(path, str(path), limits.max_bytes), str(path), limits)
    if crop or model.config is None:
        return model.preprocess(image)
    height, width = image.shape[:2]
    if max(height, width) > _LONGEST * min(height, width):
        detail = (
            f"{width}x{height}: longer side above {_LONGEST} times the shorter; --crop encodes its center"
        )
        raise BadSample(str(path), "too long", detail)
    whole = resize_whole(image, checked_size("encode", model.config.image_size, patch), patch)
    rows, columns = whole.shape[1:]
    return model.preprocess(whole.permute(1, 2, 0), size=(rows, columns))


def _encoded(
    model: Tokenizer, batch: Sequence[tuple[str, Tensor]], *, normalized: bool
) -> tuple[Tensor, Tensor | None]:
    """Latents and codes of images (name, pixels) of one shape.

    Raises:
        NumericError: One is not finite; names its image.
    """
    import torch

    from vtp_core.encoded import require_finite
    from vtp_core.tokenizer.checks import check_finite_features, check_finite_latent

    pixels = torch.cat([image for _, image in batch]).to(model.device)
    try:
        if normalized:
            latent = model.encode_normalized(pixels)
            require_finite("encode", {"the latent is": latent}, model)
            return latent, None
        features = model.features(pixels, model.bottleneck.layers)
        check_finite_features(features, model.encoder)
        encoded = model.encode_features(features)
        check_finite_latent(encoded, model.bottleneck)
    except NumericError as error:
        raise NumericError(f"{batch[error.row or 0][0]}: {error}; nothing is written") from error
    return encoded.latent, encoded.indices


def find_images(paths: tuple[Path, ...]) -> list[Path]:
    """The given files, and all images below the given folders but hidden ones, sorted within each folder.

    Linked folders are followed, each once.

    Raises:
        DataError: A path is missing, a folder can't be read, or there is no image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            problems: dict[str, list[str]] = {}
            found += [path / name for name in sorted(files_below(path, tuple(SUFFIXES), problems))]
            if closed := problems.get(UNREADABLE):
                raise DataError(f"{path}: {len(closed)} folders in it can't be read; the first: {closed[0]}")
            for what, places in problems.items():
                click.echo(f"{path}: {what}: {len(places)}, the first: {places[0]}", err=True)
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"{path}: no such file or folder")
    if not found:
        raise DataError(f"{paths[0]}: no image with a suffix of {', '.join(sorted(SUFFIXES))}")
    return found
