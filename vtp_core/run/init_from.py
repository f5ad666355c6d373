"""Starts a stage from the weights of another: a run, a checkpoint or an artefact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from vtp_core.artefact.assembly import training_modules
from vtp_core.artefact.loading import load as load_artefact
from vtp_core.artefact.loading import locate
from vtp_core.errors import CheckpointError
from vtp_core.plugins import Plugins
from vtp_core.training.networks import PARTS, Networks
from vtp_core.training.saving.checkpoint import find_latest, load_available
from vtp_core.training.saving.state import model_state


def init_from(source: str, networks: Networks, plugins: Plugins) -> list[str]:
    """Loads what `source` has of the networks, in place, before sharding.

    Args:
        source: Run folder, checkpoint folder, artefact or published folder, or the name of a tokenizer that
            ships with an installed plugin.
        networks: The stage's modules.
        plugins: To read an artefact.

    Returns:
        Lines that say what was loaded and what was not.

    Raises:
        CheckpointError: Nothing is there, shapes differ, or no tokenizer part was found.
    """
    folder = locate(source, plugins)
    if not folder.exists():
        raise CheckpointError(
            f"init_from: {folder} does not exist; give a run folder, a checkpoint or an artefact"
        )
    state = model_state(networks)
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...] = ()
    if (folder / "config.json").is_file():
        loaded = _from_artefact(folder, networks, state, plugins)
        missing = tuple(name for name in state if name not in loaded)
    else:
        checkpoint = folder if (folder / "manifest.json").is_file() else find_latest(folder)
        loaded, missing, unexpected = load_available(checkpoint, state)
    if not any(name.startswith("tokenizer.") for name in loaded):
        raise CheckpointError(f"init_from: {folder} holds no weights of this recipe's tokenizer")
    own = [name for name in unexpected if name.startswith(("tokenizer.", "objectives."))]
    return [
        f"init_from {folder}: {len(loaded)} tensors loaded",
        *_listed("starts fresh", missing),
        *_listed("not used here", own),
    ]


def _from_artefact(
    folder: Path, networks: Networks, state: Mapping[str, Tensor], plugins: Plugins
) -> tuple[str, ...]:
    """The parts, and of the heads that objectives exported those that this stage has under the same names."""
    tokenizer = load_artefact(folder, plugins=plugins)
    names: list[str] = []
    for part in PARTS:
        module = getattr(tokenizer, part)
        try:
            networks.part(part).load_state_dict(module.state_dict())
        except RuntimeError as error:
            first = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"init_from: {folder} has another {part}: {first}") from error
        names += [f"tokenizer.{part}.{name}" for name in module.state_dict()]
    for root, module in training_modules(tokenizer).items():
        heads = {f"{root}.{name}": tensor for name, tensor in module.state_dict().items()}
        for name in sorted(heads.keys() & state.keys() - set(names)):
            if state[name].shape != heads[name].shape:
                shapes = f"{tuple(heads[name].shape)}, here {tuple(state[name].shape)}"
                raise CheckpointError(
                    f"init_from: {folder} has another {name}: {shapes}; give the objective another name to "
                    "start it afresh"
                )
            state[name].detach().copy_(heads[name])
            names.append(name)
    return tuple(names)


def _listed(what: str, names: Sequence[str]) -> list[str]:
    """One line for each root of names, such as ``objectives.gan``."""
    roots: dict[str, int] = {}
    for name in names:
        root = ".".join(name.split(".")[:2])
        roots[root] = roots.get(root, 0) + 1
    return [f"  {root}: {count} tensors, {what}" for root, count in roots.items()]
