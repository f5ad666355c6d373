"""The data of a study: CIFAR-10 as tar shards if their folder is given, else the samples of the package."""

from __future__ import annotations

import json
from pathlib import Path

import click

SAMPLES = "samples"
CIFAR10 = "cifar10"
CAPTION = "a photo of a {class}"


def data_overrides(folder: Path | None) -> tuple[str, tuple[str, ...]]:
    """The name of the data, and what a recipe's sources become.

    Args:
        folder: Has `cifar10-train-*.tar`, `cifar10-test-*.tar` and `cifar10-classes.json` (class names by
            index); None for the samples, which the recipes name already.

    Raises:
        ClickException: The folder lacks one of them.
    """
    if folder is None:
        return SAMPLES, ()
    names = folder / "cifar10-classes.json"
    shards = {split: sorted(folder.resolve().glob(f"cifar10-{split}-*.tar")) for split in ("train", "test")}
    if not names.is_file() or not all(shards.values()):
        raise click.ClickException(
            f"{folder}: needs cifar10-train-*.tar, cifar10-test-*.tar and cifar10-classes.json; "
            "leave --data out for the samples of the package"
        )
    classes = json.loads(names.read_text())
    return CIFAR10, tuple(
        f"{key}={_source(shards[split], classes)}"
        for key, split in (("data.source", "train"), ("evaluate.source", "test"))
    )


def _source(shards: list[Path], classes: list[str]) -> str:
    # JSON's strings and arrays are TOML's.
    values = {
        "use": "webdataset",
        "urls": [str(shard) for shard in shards],
        "classes": classes,
        "caption": CAPTION,
    }
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items()) + " }"
