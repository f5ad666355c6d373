"""Images and labels for studies of frozen features: shards, or the samples of the package."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vtp_core.data.opening import Sources
from vtp_core.evaluation.opening import open_set
from vtp_core.evaluation.sets.dataset import EvaluationSet
from vtp_core.plugins import Plugins


def open_images(data: str, folder: str | None, split: str, count: int, plugins: Plugins) -> EvaluationSet:
    """At most `count` images of a set, spread evenly over it.

    Args:
        data: Name of the shards, such as ``cifar10``; ``samples`` are those of the package.
        folder: Where the shards are; None: the samples stand in for them.
        split: ``train`` or ``val``; CIFAR-10's shards call the second ``test``.
        count: Most images.
        plugins: Where sources are looked up.

    Raises:
        ClickException: The folder lacks the shards or the class names.
    """
    if folder is None or data == "samples":
        values: dict[str, object] = {"use": "samples", "split": split}
    else:
        kind = "test" if (split, data) == ("val", "cifar10") else split
        shards = sorted(Path(folder).resolve().glob(f"{data}-{kind}*.tar"))
        names = Path(folder) / f"{data}-classes.json"
        if not shards or not names.is_file():
            raise click.ClickException(f"{folder}: needs {data}-{kind}*.tar and {names.name}")
        urls = [str(shard) for shard in shards]
        values = {"use": "webdataset", "urls": urls, "classes": json.loads(names.read_text())}
    table = plugins.find("source", str(values["use"])).load_config().model_validate(values)
    return open_set(table, Sources(plugins), count)
