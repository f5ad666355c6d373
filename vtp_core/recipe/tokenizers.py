"""The tokenizers that ship with installed plugins, by name. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vtp_core.errors import CheckpointError
from vtp_core.recipe.history import RESOLVED
from vtp_core.recipe.problems import alike, closest
from vtp_core.recipe.shipped import shipped_recipes

if TYPE_CHECKING:
    from vtp_core.plugins import Plugins


def locate(name: str | Path, plugins: Plugins) -> Path:
    """The folder of a shipped tokenizer of this name, else the path itself; a folder comes first.

    Raises:
        CheckpointError: A bare name of neither a folder nor a shipped tokenizer.
    """
    path, text = Path(name), str(name)
    if path.exists() or path.name != text:
        return path
    shipped = {component.name: component for component in plugins.components("tokenizer")}
    if found := alike(text, shipped):
        folder: Path = shipped[found].load_target()()
        return folder
    raise CheckpointError(f'there is no folder and no shipped tokenizer "{text}"; {_advice(text, shipped)}')


def _advice(name: str, shipped: Iterable[str]) -> str:
    if (Path("runs") / name / RESOLVED).is_file():
        return f"did you mean the run {Path('runs') / name}?"
    if recipe := alike(name, shipped_recipes()):
        return f'"{recipe}" is a recipe: train it with `vtp run {recipe}`, then give the folder of the run'
    if meant := closest(name, shipped):
        return f'did you mean "{meant}"?'
    return f"shipped: {', '.join(sorted(shipped)) or 'none'}"
