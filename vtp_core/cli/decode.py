"""``vtp decode``: latents back to images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vtp_core.artefact.fingerprint import TokenizerName
from vtp_core.cli.arguments.options import (
    device_option,
    fast_option,
    json_option,
    plugin_option,
    tokenizer_argument,
    torch_device,
)
from vtp_core.cli.output import check_empty_folder
from vtp_core.data.source import BadSample
from vtp_core.errors import DataError
from vtp_core.latents.stored import StoredLatents

if TYPE_CHECKING:
    from torch import Tensor


@click.command()
@tokenizer_argument
@click.argument("latents", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="New folder for PNG files."
)
@click.option("--rows", type=click.IntRange(min=1), default=16, show_default=True, help="Images at a time.")
@device_option
@fast_option
@json_option
@plugin_option
def decode(
    tokenizer: str,
    latents: Path,
    output: Path,
    rows: int,
    device: str,
    fast: bool,
    as_json: bool,
    plugin_files: tuple[Path, ...],
) -> None:
    """Decode LATENTS, a file or folder of `vtp encode`, to PNG images in a new folder with TOKENIZER.

    TOKENIZER is the folder of a run or of a tokenizer, or the name of one that ships, such as vtp-nano.
    """
    from vtp_core.artefact.finding import find_tokenizer
    from vtp_core.plugins import load_plugins

    check_empty_folder("--output", output)
    plugins = load_plugins(plugin_files)
    folder = find_tokenizer(tokenizer, plugins)
    stored = StoredLatents(latents, flips=False) if latents.is_dir() else None
    tensors, normalized, made_by = ({}, False, stored.made_by) if stored else _read_header(latents)

    import torch

    from vtp_core.artefact.fingerprint import name_of, require_same
    from vtp_core.artefact.loading import load
    from vtp_core.artefact.preparation import prepare
    from vtp_core.run.progress import show_pass

    model = load(folder, plugins=plugins).to(torch_device(device))
    if made_by is not None:
        require_same(str(latents), made_by, name_of(model), normalized=normalized)
    for line in prepare(model, plugins) if fast else ():
        click.echo(line, err=True)
    output.mkdir(parents=True, exist_ok=True)
    index, total = 0, len(stored) if stored else sum(count for count, _ in tensors.values())
    parts = _of_folder(stored, rows) if stored else _of_file(latents, tensors, rows)
    with torch.no_grad(), show_pass("decoding", total) as advance:
        for values, names in parts:
            part = values.to(model.device, model.dtype)
            decoded = model.decode_normalized(part) if normalized else model.decode(part)
            for image, name in zip(model.postprocess(decoded.sample), names, strict=True):
                image.save(output / f"{index:06d}-{_stem(name)}.png")
                index += 1
            advance(len(part))
    if as_json:
        click.echo(json.dumps({"folder": str(output), "images": total}, indent=2))
    else:
        click.echo(f"{output}: {total} images")


_Part = tuple["Tensor", "Sequence[str]"]


def _of_file(latents: Path, tensors: Mapping[str, tuple[int, list[str]]], rows: int) -> Iterator[_Part]:
    """Latents of a file with the names of their images, `rows` at a time."""
    from safetensors import safe_open

    with safe_open(latents, framework="pt", device="cpu") as file:
        for name, (count, names) in tensors.items():
            values = file.get_slice(name)
            for start in range(0, count, rows):
                part = values[start : start + rows]
                yield part, [*names[start : start + rows], *["image"] * len(part)][: len(part)]


def _of_folder(stored: StoredLatents, rows: int) -> Iterator[_Part]:
    """The same of a folder.

    Raises:
        DataError: A latent is not finite, or a file is damaged.
    """
    import torch

    for start in range(0, len(stored), rows):
        try:
            samples = [stored.read(i, stored.fields) for i in range(start, min(start + rows, len(stored)))]
        except BadSample as error:  # its detail is the file
            raise DataError(f"{error.detail}: {error.key}: {error.reason}; encode it again") from error
        found = [torch.from_numpy(sample.latent) for sample in samples if sample.latent is not None]
        yield torch.stack(found), [sample.key for sample in samples]


def _read_header(latents: Path) -> tuple[dict[str, tuple[int, list[str]]], bool, TokenizerName | None]:
    """Tensors of a latents file, whether they are normalised, and their tokenizer. Imports no torch.

    Returns:
        Tensor -> its latents, and the names of their images; whether they are normalised; the tokenizer, if
        the file names it.

    Raises:
        DataError: It is no such file.
    """
    from safetensors import SafetensorError, safe_open

    if not latents.is_file():
        raise DataError(f"{latents}: no such file; `vtp encode` writes one")
    try:
        with safe_open(latents, framework="np") as file:
            found = [name for name in file.keys() if name.partition(".")[0] == "latents"]
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in found}
            metadata = file.metadata() or {}
        listed = json.loads(metadata.get("images", "[]"))
        normalized = json.loads(metadata.get("normalized", "false"))
        named = metadata.get("tokenizer")
        made_by = None if named is None else TokenizerName.model_validate_json(named)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise DataError(f"{latents}: not a latents file ({error}); use a file of `vtp encode`") from error
    if not shapes:
        raise DataError(f"{latents}: holds no tensor `latents`; use a file of `vtp encode`")
    # One shape has a list of names, several have a list for each.
    lists = listed if isinstance(listed, dict) else {"": listed}
    if not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists.values()
    ):
        raise DataError(
            f"{latents}: `images` of its metadata is no list of names; use a file of `vtp encode`"
        )
    if not isinstance(normalized, bool):
        raise DataError(f"{latents}: `normalized` of its metadata is neither true nor false")
    for shape in shapes.values():
        if len(shape) != 4 or shape[0] == 0:
            raise DataError(f"{latents}: expected latents (n, d, h, w), found {shape}")
    return (
        {name: (shape[0], lists.get(name.partition(".")[2], [])) for name, shape in sorted(shapes.items())},
        normalized,
        made_by,
    )


def _stem(name: str) -> str:
    """What a file name may hold of a name from an untrusted file: it can't leave the folder, and fits."""
    stem = "".join(letter if letter.isprintable() else "_" for letter in Path(name).stem.replace("\\", "_"))
    return stem.encode()[:200].decode(errors="ignore") or "image"
