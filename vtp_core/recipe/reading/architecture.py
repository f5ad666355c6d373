"""``from`` in the table of a tokenizer's part: the keys of a trained one. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vtp_core.errors import CheckpointError, UsageError, VtpError
from vtp_core.recipe.history import RESOLVED, update_table
from vtp_core.recipe.problems import Problem, RecipeErrors, dotted
from vtp_core.recipe.reading.files import FROM, PARTS, Tree
from vtp_core.recipe.tokenizers import locate
from vtp_core.recipe.toml_values import TomlError, parse_toml, read_plain

if TYPE_CHECKING:
    from vtp_core.plugins import Plugins


def take_architectures(tree: Tree, plugins: Plugins) -> None:
    """Replaces ``from`` of `encoder`, `bottleneck` and `decoder` by the keys of that tokenizer's table.

    Keys beside it stay as they are; the others count as set where ``from`` is.

    Raises:
        RecipeErrors: There is no such tokenizer, it has no such part, or the table names another component.
    """
    for part in PARTS:
        table = tree.values.get(part)
        if not isinstance(table, dict) or FROM not in table:
            continue
        name, place = table.pop(FROM), tree.origins.pop((part, FROM), tree.origin((part,)))
        try:
            if not isinstance(name, str) or not name:
                raise UsageError("expected the name or folder of a tokenizer")
            found = update_table(part, _table(name, part, plugins), plugins)
            if table.get("use", found["use"]) != found["use"]:
                raise UsageError(f'{name}: its {part} is "{found["use"]}", not "{table["use"]}"; remove one')
        except VtpError as error:
            problem = Problem(place, dotted((part, FROM)), str(error))
            raise RecipeErrors([*tree.problems, problem]) from error
        taken = {key: value for key, value in found.items() if key not in table and value is not None}
        table.update(taken)
        tree.origins.update({(part, key): place for key in taken})


def _table(name: str, part: str, plugins: Plugins) -> Mapping[str, Any]:
    """The table of a part, of an artefact or of a run's recipe."""
    path = locate(name, plugins)
    run = path.parent.parent if path.parent.name == "checkpoints" else path
    places = (path / "config.json", run / "tokenizer" / "config.json", run / RESOLVED)
    file = next((file for file in places if file.is_file()), None)
    if file is None:
        raise CheckpointError(f"{path}: no tokenizer or run here; give the folder of one, or a shipped name")
    try:
        text = read_plain(file)
        values = json.loads(text) if file.suffix == ".json" else parse_toml(text)
    except (OSError, ValueError, RecursionError, TomlError) as error:
        raise CheckpointError(f"{file}: can't be read ({error})") from error
    if not isinstance(values, dict) or (file.suffix == ".json" and values.get("format") != "vtp-tokenizer"):
        raise CheckpointError(f"{file}: of another project, so its tables are unknown; write out the keys")
    table = values.get(part)
    if not isinstance(table, dict) or not isinstance(table.get("use"), str):
        raise CheckpointError(f"{file}: has no {part}")
    return table
