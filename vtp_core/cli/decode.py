"""``vtp decode``: latents back to images."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vtp_core.artefact.fingerprint import TokenizerName
from vtp_core.cli.arguments.options import fast_option, json_option, plugin_option, tokenizer_argument
from vtp_core.cli.output import check_folder
from vtp_core.errors import DataError


@click.command()
@tokenizer_argument
@click.argument("latents", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder for PNG files.")
@click.option("--rows", type=click.IntRange(min=1), default=16, show_default=True, help="Images at a time.")
@fast_option(default=True)
@json_option
@plugin_option
def decode(
    tokenizer: str,
    latents: Path,
    output: Path,
    rows: int,
    fast: bool,
    as_json: bool,
    plugin_files: tuple[Path, ...],
) -> None:
    """Decode LATENTS, a file of `vtp encode`, to PNG images with TOKENIZER.

    TOKENIZER is the folder of a run or of a tokenizer, or the name of one that ships, such as vtp-nano.
    """
    from vtp_core.artefact.finding import find_tokenizer
    from vtp_core.plugins import load_plugins

    check_folder("--output", output)
    plugins = load_plugins(plugin_files)
    folder = find_tokenizer(tokenizer, plugins)
    tensors, normalized, made_by = _read_header(latents)

    import torch
    from safetensors import safe_open

    from vtp_core.artefact.fingerprint import name_of, require_same
    from vtp_core.artefact.loading import load
    from vtp_core.artefact.preparation import prepare
    from vtp_core.run.progress import show_pass

    model = load(folder, plugins=plugins)
    if made_by is not None:
        require_same(str(latents), made_by, name_of(model), normalized=normalized)
    for line in prepare(model, plugins) if fast else ():
        click.echo(line, err=True)
    output.mkdir(parents=True, exist_ok=True)
    index, total = 0, sum(count for count, _ in tensors.values())
    with (
        torch.no_grad(),
        show_pass("decoding", total) as advance,
        safe_open(latents, framework="pt", device="cpu") as file,
    ):
        for name, (count, names) in tensors.items():
            values = file.get_tensor(name)
            for start in range(0, count, rows):
                part = values[start : start + rows]
                decoded = model.decode_normalized(part) if normalized else model.decode(part)
                for place, image in enumerate(model.postprocess(decoded.sample), start):
                    stem = _stem(names[place]) if place < len(names) else "image"
                    image.save(output / f"{index:06d}-{stem}.png")
                    index += 1
                advance(len(part))
    if as_json:
        click.echo(json.dumps({"folder": str(output), "images": total}, indent=2))
    else:
        click.echo(f"{output}: {total} images")


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
