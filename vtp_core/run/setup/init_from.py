"""Initialises the networks of a run from another run, a checkpoint or an artefact (``init_from``)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vtp_core.artefact.assembly import training_modules
from vtp_core.artefact.config import is_artefact
from vtp_core.artefact.critics import read_critics
from vtp_core.artefact.loading import format_of
from vtp_core.artefact.loading import load as load_artefact
from vtp_core.decoder import Decoder
from vtp_core.encoder import Encoder
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.objective import Objective
from vtp_core.parameters import Resampler
from vtp_core.plugins import Plugins
from vtp_core.recipe.tables.initial import InitFromConfig
from vtp_core.recipe.tokenizers import locate
from vtp_core.training.networks import PARTS, Networks
from vtp_core.training.saving.checkpoint import find_latest, read_into, stored_shapes
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

    An objective that is not in the source keeps its fresh weights. Any other tensor that only one side has
    or that has another shape there is an error, unless ``init_from.fresh`` names it or
    ``match = "shapes"`` leaves it out. With ``resample = true`` the networks' `resamplers` fit what they can.

    Args:
        source: Run folder, checkpoint folder, artefact, folder or file of another project, or the name of a
            tokenizer that ships with an installed plugin; or the table that holds one of these.
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
    held = _open(folder, plugins)
    differing = [name for name in wanted if held.shapes.get(name, wanted[name].shape) != wanted[name].shape]
    fitting = {
        name: resampler
        for name, resampler in _resamplers(networks, state).items()
        if name in differing and _fits(resampler, held.shapes[name], wanted[name].shape)
    }
    resampled = [name for name in differing if name in fitting and table.resample]
    other = [name for name in differing if name not in resampled]
    if other and table.match == "all":
        raise CheckpointError(_other_shapes(table, folder, held, wanted, other, len(fitting)))
    loaded = [name for name in wanted if name in held.shapes and name not in other]
    missing = [name for name in wanted if name not in held.shapes]
    own = [name for name in sorted(held.shapes) if name.startswith(("tokenizer.", "objectives."))]
    unused = [name for name in own if name not in state]
    if not any(name.startswith("tokenizer.") for name in loaded):
        raise CheckpointError(f"init_from: {folder} holds no weights that fit this recipe's tokenizer")
    if table.match == "all":
        _check(folder, loaded, missing, [name for name in unused if not _matches(name, table.fresh)])
    given = {name: torch.empty(held.shapes[name], dtype=state[name].dtype) for name in resampled}
    held.read({**{name: state[name].detach() for name in loaded}, **given})
    for name, tensor in given.items():
        state[name].detach().copy_(fitting[name](tensor, tuple(state[name].shape)))
    started = {_owner(name) for name in (*missing, *other, *fresh)}
    return Initialised(
        lines=[
            f"init_from {folder}: {len(loaded)} tensors loaded",
            *_listed("starts fresh", (*missing, *other, *fresh)),
            *_listed("not used here", unused),
            *(f"  {line}, starts fresh" for line in _shapes(held, wanted, other)),
            *(f"  {line}, resampled" for line in _shapes(held, wanted, resampled)),
        ],
        whole=frozenset(_owner(name) for name in loaded) - started,
    )


@dataclass(frozen=True)
class _Held:
    """What a source holds: shapes by name, and what copies tensors of these shapes into others."""

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[Mapping[str, Tensor]], None]


def _open(folder: Path, plugins: Plugins) -> _Held:
    """A checkpoint, or the networks of an artefact or of another project with the heads that go with it."""
    ours = folder.is_dir() and not (folder / "config.json").is_file()
    if ours and format_of(folder, plugins) is None:
        path = find_latest(folder).path
        return _Held(stored_shapes(path), partial(read_into, path))
    held = {
        f"{root}.{name}": tensor
        for root, module in training_modules(load_artefact(folder, plugins=plugins)).items()
        for name, tensor in module.state_dict().items()
    }
    if is_artefact(folder):
        held |= read_critics(folder)

    def read(state: Mapping[str, Tensor]) -> None:
        for name, tensor in state.items():
            tensor.copy_(held[name])

    return _Held({name: tuple(tensor.shape) for name, tensor in held.items()}, read)


def _resamplers(networks: Networks, state: Mapping[str, Tensor]) -> dict[str, Resampler]:
    """Full name of a tensor -> what fits one of another size."""
    roots: dict[str, Encoder | Decoder | Objective] = {
        "tokenizer.encoder": networks.encoder,
        "tokenizer.decoder": networks.decoder,
        **{f"objectives.{name}": objective for name, objective in networks.objectives.items()},
    }
    found = {
        f"{root}.{name}": resampler
        for root, module in roots.items()
        for name, resampler in module.resamplers().items()
    }
    if unknown := [name for name in found if name not in state]:
        raise UsageError(
            f"init_from: a resamplers() names {unknown[0]}, which is no tensor; correct that plugin"
        )
    return found


def _other_shapes(
    table: InitFromConfig,
    folder: Path,
    held: _Held,
    wanted: Mapping[str, Tensor],
    names: Sequence[str],
    fitting: int,
) -> str:
    """The error that names every tensor of another shape and says how to go on."""
    count = "1 tensor of another shape" if len(names) == 1 else f"{len(names)} tensors of other shapes"
    parts = [part for part in PARTS if any(_owner(name) == part for name in names)]
    ours = is_artefact(folder) or not (folder / "config.json").exists()
    sizes = f' (from = "{table.path}" in {", ".join(parts)})' if parts and ours else ""
    fit = f", and resample = true fits {fitting} of them" if fitting and not table.resample else ""
    return (
        f"init_from: {folder} has {count}: {'; '.join(_shapes(held, wanted, names))}; give this recipe its "
        f"sizes{sizes}, or start these fresh: "
        f'init_from = {{ path = "{table.path}", match = "shapes" }}{fit}'
    )


def _fits(resampler: Resampler, held: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether a tensor can be resampled; its other axes must be equal."""
    try:
        resampler(torch.zeros(*held), wanted)
    except ValueError:
        return False
    return True


def _shapes(held: _Held, wanted: Mapping[str, Tensor], names: Sequence[str]) -> list[str]:
    """One entry for each tensor that differs, those of equal shapes in all blocks together."""
    groups: dict[str, int] = {}
    for name in names:
        pattern = re.sub(r"\.\d+\.", ".*.", name)
        entry = f"{pattern} has shape {held.shapes[name]}, here {tuple(wanted[name].shape)}"
        groups[entry] = groups.get(entry, 0) + 1
    return [entry + (f" ({count} of them)" if count > 1 else "") for entry, count in groups.items()]


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
            'settings, or name what may start fresh in init_from.fresh, or set its match to "shapes"'
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
