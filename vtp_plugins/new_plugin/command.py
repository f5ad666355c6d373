"""``vtp new-plugin``: writes the files of a working plugin to start from. Imports no torch."""

from __future__ import annotations

import keyword
import re
import string
from collections.abc import Iterator
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from vtp_core.errors import UsageError

TEMPLATES = {
    "objective": ("mean_color", "MeanColor", "Predicts each image's mean color from its features."),
    "encoder": ("mixer", "Mixer", "Patches, and layers that mix them with their mean."),
    "bottleneck": ("bounded", "Bounded", "A linear projection, bounded by tanh."),
    "decoder": ("convolutional", "Convolutional", "Residual convolutions and a pixel shuffle."),
    "source": ("stripes", "Stripes", "Drawn stripes with captions and classes."),
    "evaluator": ("absolute_error", "AbsoluteError", "Mean absolute error of the reconstruction."),
    "callback": ("table", "LossTable", "Loss terms as a table for spreadsheets."),
}
"""Kind -> name, class and summary of the component that its template starts from."""

_SUFFIX = ".template"


@click.command("new-plugin")
@click.argument("name")
@click.option("--kind", type=click.Choice(list(TEMPLATES)), default="objective", show_default=True)
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(file_okay=False, path_type=Path))
def new_plugin(name: str, kind: str, folder: Path | None) -> None:
    """Write a plugin NAME that works, with a test, to DIR (default: ./vtp-plugin-NAME).

    Recipes call what it offers NAME.COMPONENT.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise UsageError(f'plugin name "{name}" must be lower-case letters, digits and "-", such as my-loss')
    folder = folder or Path(f"vtp-plugin-{name.replace('_', '-')}")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; give another folder: vtp new-plugin {name} DIR")
    values = _values(name.replace("-", "_"), kind)
    files = plugin_files(values)
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
        click.echo(str(folder / path))
    commands = (f"pip install -e {folder}", f"vtp plugins show {values['use']}", f"python -m pytest {folder}")
    click.echo("\n  ".join(["\nNext:", *commands]))


def plugin_files(values: dict[str, str]) -> dict[str, str]:
    """Path within the plugin's folder -> content, for all files.

    Args:
        values: Placeholder -> value; "kind" and "package" decide which files are written and where.
    """
    templates = resources.files("vtp_plugins.new_plugin") / "data"
    kind, package = values["kind"], values["package"]
    own = dict(_texts(templates / kind))
    values = values | {"recipe": string.Template(own.pop("recipe.toml")).substitute(values).rstrip()}
    shared = dict(_texts(templates / "any"))
    texts = {
        path.replace("package/", f"{package}/", 1).replace("gitignore", ".gitignore"): text
        for path, text in (shared | own).items()
    }
    return {path: string.Template(texts[path]).substitute(values) for path in sorted(texts)}


def _values(name: str, kind: str) -> dict[str, str]:
    component, class_name, summary = TEMPLATES[kind]
    return {
        "name": name,
        "kind": kind,
        "article": "An" if kind[0] in "aeo" else "A",
        "distribution": f"vtp-plugin-{name.replace('_', '-')}",
        "package": f"vtp_plugin_{name}",
        "component": component,
        "class_name": class_name,
        "summary": summary,
        "use": f"{name}.{component}",
        "core_version": metadata.version("vtp-core"),
    }


def _texts(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Templates below a folder: path without the suffix, and text."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _texts(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            yield prefix + entry.name.removesuffix(_SUFFIX), entry.read_text(encoding="utf-8")
