"""Initialises the networks of a run from another run, a checkpoint or an artefact (``init_from``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor

from vtp_core.artefact.assembly import training_modules
from vtp_core.artefact.finding import locate
from vtp_core.artefact.loading import load as load_artefact
from vtp_core.errors import CheckpointError
from vtp_core.plugins import Plugins
from vtp_core.recipe.tables.initial import InitFromConfig
from vtp_core.training.networks import PARTS, Networks
from vtp_core.training.saving.checkpoint import find_latest, load_available
from vtp_core.training.saving.state import model_state


@dataclass(frozen=True, kw_only=True)
class Initialised:
    """What `init_from` did.

    Attributes:
        lines: What was loaded and what was not.
        whole: Owners all of whose tensors were loaded.
    """

    lines: list[str]
    whole: frozenset[str]


def init_from(source: str | InitFromConfig, networks: Networks, plugins: Plugins) -> Initialised:
    """Loads the tensors of `source` that the networks have too, in place, before sharding.

    An objective that is not in the source keeps its fresh weights. Any other tensor that only one side has is
    an error unless ``init_from.fresh`` names it.

    Args:
        source: Run folder, checkpoint folder, artefact or published folder, or the name of a tokenizer that
            ships with an installed plugin; or the table that holds one of these.
        networks: The stage's modules.
        plugins: To read an artefact.

    Raises:
        CheckpointError: Nothing is there, shapes differ, or source and recipe are of different networks.
    """
    table = InitFromConfig(path=source) if isinstance(source, str) else source
    folder = locate(table.path, plugins)
    if not folder.exists():
        raise CheckpointError(
            f"init_from: {folder} does not exist; give a run folder, a checkpoint or an artefact"
        )
    state = model_state(networks)
    fresh = _allowed(table.fresh, state, networks)
    wanted = {name: tensor for name, tensor in state.items() if name not in fresh}
    if (folder / "config.json").is_file():
        loaded, missing, unexpected = _from_artefact(folder, wanted, plugins)
    else:
        loaded, missing, unexpected = load_available(find_latest(folder).path, wanted)
    own = [name for name in unexpected if name.startswith(("tokenizer.", "objectives."))]
    unused = [name for name in own if name not in fresh]
    if not any(name.startswith("tokenizer.") for name in loaded):
        raise CheckpointError(f"init_from: {folder} holds no weights of this recipe's tokenizer")
    _check(folder, loaded, missing, [name for name in unused if not _matches(name, table.fresh)])
    started = {_owner(name) for name in (*missing, *fresh)}
    return Initialised(
        lines=[
            f"init_from {folder}: {len(loaded)} tensors loaded",
            *_listed("starts fresh", (*missing, *fresh)),
            *_listed("not used here", unused),
        ],
        whole=frozenset(_owner(name) for name in loaded) - started,
    )


def _from_artefact(
    folder: Path, state: Mapping[str, Tensor], plugins: Plugins
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """As `load_available`, for the networks of an artefact and the heads that objectives exported."""
    held = {
        f"{root}.{name}": tensor
        for root, module in training_modules(load_artefact(folder, plugins=plugins)).items()
        for name, tensor in module.state_dict().items()
    }
    common = tuple(name for name in state if name in held)
    for name in common:
        if state[name].shape != held[name].shape:
            shapes = f"{tuple(held[name].shape)}, here {tuple(state[name].shape)}"
            raise CheckpointError(
                f"init_from: {folder} has another {name}: {shapes}; give this recipe its sizes, or start "
                f'"{_owner(name)}" fresh with init_from.fresh'
            )
    for name in common:
        state[name].detach().copy_(held[name])
    missing = tuple(name for name in state if name not in held)
    return common, missing, tuple(name for name in held if name not in state)


def _allowed(patterns: Sequence[str], state: Mapping[str, Tensor], networks: Networks) -> list[str]:
    """The tensors that `patterns` name."""
    for pattern in patterns:
        if not any(_matches(name, (pattern,)) for name in state):
            owners = ", ".join((*PARTS, *networks.objectives))
            raise CheckpointError(f"init_from.fresh: {pattern!r} names no tensor; owners are {owners}")
    return [name for name in state if _matches(name, patterns)]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(pattern == _owner(name) or fnmatchcase(name, pattern) for pattern in patterns)


def _check(folder: Path, loaded: Sequence[str], missing: Sequence[str], unused: Sequence[str]) -> None:
    """Refuses a source that has an owner's tensors in part, or under the name of another objective."""
    known = {*PARTS, *(_owner(name) for name in loaded)}
    if gaps := [name for name in missing if _owner(name) in known]:
        raise CheckpointError(
            f"init_from: {folder} lacks {_some(gaps)}, which would start fresh; give this recipe its "
            "settings, or name what may start fresh in init_from.fresh"
        )
    if surplus := [name for name in unused if _owner(name) in known]:
        raise CheckpointError(
            f"init_from: {folder} has {_some(surplus)}, for which this recipe has no place; give it "
            "the settings of those networks"
        )
    there, here = _by_owner(unused), _by_owner(missing)
    for owner, tensors in here.items():
        if same := next((name for name, others in there.items() if others == tensors), None):
            raise CheckpointError(
                f'init_from: objective "{owner}" would start fresh, but {folder} has one like it, "{same}"; '
                f'give it that name, or allow it: init_from = {{ path = ..., fresh = ["{owner}"] }}'
            )


def _owner(name: str) -> str:
    """The part or objective that a tensor belongs to: ``encoder`` of ``tokenizer.encoder.norm.weight``."""
    return name.split(".")[1]


def _by_owner(names: Iterable[str]) -> dict[str, set[str]]:
    """Owner -> its tensors' names below it."""
    owners: dict[str, set[str]] = {}
    for name in names:
        owners.setdefault(_owner(name), set()).add(name.split(".", 2)[2])
    return owners


def _some(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _listed(what: str, names: Sequence[str]) -> list[str]:
    """One line for each root of names, such as ``objectives.gan``."""
    roots: dict[str, int] = {}
    for name in names:
        root = ".".join(name.split(".")[:2])
        roots[root] = roots.get(root, 0) + 1
    return [f"  {root}: {count} tensors, {what}" for root, count in roots.items()]
