"""Writes and reads artefact folders; writing is atomic."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import get_args

from torch import Tensor, nn

from vtp_core.artefact.assembly import assemble, head_modules
from vtp_core.artefact.card import CARD, is_edited, model_card, signed
from vtp_core.artefact.compact import Storage, compress, restore
from vtp_core.artefact.config import ArtefactConfig, read_config
from vtp_core.artefact.critics import Critic, write_critics
from vtp_core.artefact.fingerprint import TokenizerName, fingerprint, require_same
from vtp_core.artefact.outline import outline
from vtp_core.artefact.sums import SUMS, check_sums, write_sums
from vtp_core.artefact.weights import check_header, read_header, read_weights, write_weights
from vtp_core.atomic import replacing_folder
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.plugins.manager import UnknownComponent
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import sides

WEIGHTS = "model.safetensors"
NAMES = (
    CARD, "NOTICE", SUMS, "config.json", WEIGHTS, "preprocessor_config.json",
    *(f"{part}/*/{name}" for part in ("heads", "critics") for name in ("config.json", WEIGHTS)),
)  # fmt: skip
"""The files of an artefact."""
_log = logging.getLogger(__name__)


def write_artefact(
    tokenizer: Tokenizer,
    folder: Path,
    storage: Storage = "full",
    critics: Mapping[str, Critic] | None = None,
) -> Path:
    """Writes ``config.json``, weights, ``preprocessor_config.json``, model card, ``heads/`` and hashes.

    Args:
        tokenizer: One with a `config`; its parameters are whole tensors (no shards).
        folder: Destination. Of an existing artefact the files that one has are replaced, all at once; others
            stay, and so does a card that was edited.
        storage: How weights are stored, see `vtp_core.artefact.compact`.
        critics: Objective -> its critic, to be stored as it is.

    Raises:
        UsageError: No `config`, or `folder` holds something else.
    """
    if tokenizer.config is None:
        raise UsageError("save: a tokenizer without a config has no component tables; build it with config=")
    if storage not in (known := get_args(Storage)):
        raise UsageError(f"save: storage {storage!r}: expected one of {', '.join(known)}")
    config = tokenizer.config.model_copy(update={"storage": storage})
    edited = is_edited(folder / CARD)
    if edited:
        _log.warning("%s: was edited, so it stays; delete it for a card of these weights", folder / CARD)

    def fill(new: Path) -> None:
        _fill(new, tokenizer, config, critics or {})
        if edited:
            (new / CARD).unlink()

    names = [name for name in NAMES if not (edited and name == CARD)]
    return replace_folder(folder, fill, _readable, names, keep=True)


def replace_folder(
    folder: Path,
    fill: Callable[[Path], None],
    replaceable: Callable[[Path], bool],
    names: Iterable[str],
    *,
    keep: bool = False,
) -> Path:
    """Writes a folder atomically.

    Args:
        folder: Destination; its parents are created.
        fill: Writes the files into an empty folder.
        replaceable: Whether an existing, non-empty folder may be replaced, by what is in its files.
        names: The files that `fill` may write, as patterns of paths below the folder. One that holds any
            other file, folder or link is not replaced.
        keep: Whether such a folder is replaced, and what else it holds stays in it.

    Returns:
        The absolute path.

    Raises:
        UsageError: `folder` holds something that may not be replaced.
    """
    folder = folder.absolute()
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or replaceable(folder))):
        raise UsageError(f"{folder}: holds something other than a tokenizer; choose another folder")
    others = _foreign(folder, [PurePath(name).parts for name in names])
    if others and not keep:
        raise UsageError(f"{folder}: holds {others[0]}, which would be lost; choose another folder")
    with replacing_folder(folder) as new:
        fill(new)
        for path in others:
            _carry(folder / path, new / path)
    return folder


def _foreign(folder: Path, patterns: Iterable[tuple[str, ...]]) -> list[Path]:
    """The paths below the folder, if it exists, that no pattern names."""
    found = []
    for path in folder.rglob("*"):
        own, inner = path.relative_to(folder), path.is_dir()
        known = any(
            (len(own.parts) < len(pattern) if inner else len(own.parts) == len(pattern))
            and all(map(fnmatchcase, own.parts, pattern))
            for pattern in patterns
        )
        if path.is_symlink() or not known:
            found.append(own)
    return found


def _carry(path: Path, to: Path) -> None:
    """Puts a file, link or folder, without its content, also at `to`, unless something is there."""
    if os.path.lexists(to):
        return
    if path.is_dir() and not path.is_symlink():
        to.mkdir(parents=True)
        shutil.copystat(path, to)
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, to, follow_symlinks=False)
    except (OSError, NotImplementedError):  # a file system without hard links, or another user's file
        shutil.copy2(path, to, follow_symlinks=False)


def read_artefact(folder: Path, plugins: Plugins | None = None) -> Tokenizer:
    """The tokenizer of a folder, in eval mode on the CPU; see `loading.load`."""
    plugins = plugins if plugins is not None else load_plugins()
    config = _known_heads(read_config(folder), plugins, folder)
    _check_generators(config, folder)
    heads = _head_files(config)
    check_sums(folder, ["config.json", WEIGHTS, *heads.values()])
    planned = _planned(config, folder, plugins)
    check_header(folder / WEIGHTS, _core_state(planned))
    for objective, children in head_modules(planned, config).items():
        check_header(folder / heads[objective], _state(children))
    tokenizer = assemble(config, plugins)
    core = _core_state(tokenizer)
    for name, tensor in read_weights(folder / WEIGHTS, core).items():
        core[name].copy_(tensor)
    for objective, children in head_modules(tokenizer, config).items():
        state = _state(children)
        for name, tensor in read_weights(folder / heads[objective], state).items():
            state[name].copy_(tensor)
    return tokenizer


def outline_artefact(folder: Path, plugins: Plugins) -> Tokenizer:
    """The tokenizer of a folder on the meta device: its networks and settings, without weights.

    Raises:
        CheckpointError: Its ``config.json`` or the heads of its files are damaged.
        UsageError: A component is not installed.
    """
    return _planned(_known_heads(read_config(folder), plugins, folder), folder, plugins)


def _planned(config: ArtefactConfig, folder: Path, plugins: Plugins) -> Tokenizer:
    shapes = {
        f"{file}:{name}": shape
        for file in (WEIGHTS, *_head_files(config).values())
        for name, (_, shape) in read_header(folder / file).items()
    }
    return outline(config, plugins, shapes)


def _head_files(config: ArtefactConfig) -> dict[str, str]:
    """Head -> the file of its weights in the folder."""
    return {name: f"heads/{name}/{WEIGHTS}" for name in config.heads}


def _known_heads(config: ArtefactConfig, plugins: Plugins, folder: Path) -> ArtefactConfig:
    """The config without heads whose objective no plugin offers: images need none of them."""
    kept = {}
    for name, head in config.heads.items():
        try:
            plugins.find("objective", str(head.objective.get("use")))
        except UnknownComponent as error:
            _log.warning("%s: loaded without %s: %s", folder, ", ".join(head.exports) or name, error)
            continue
        kept[name] = head
    return config if len(kept) == len(config.heads) else config.model_copy(update={"heads": kept})


def _check_generators(config: ArtefactConfig, folder: Path) -> None:
    """Refuses a head that makes another tokenizer's latents."""
    for name, head in config.heads.items():
        if head.tokenizer is not None and config.fingerprint is not None:
            own = TokenizerName(name=config.recipe, fingerprint=config.fingerprint)
            require_same(f"{folder / 'heads' / name}", head.tokenizer, own)


def _identified(tokenizer: Tokenizer, config: ArtefactConfig, stored: Mapping[str, Tensor]) -> ArtefactConfig:
    """The config with the fingerprint of these weights, in the generators' heads too.

    Raises:
        CheckpointError: A generator was trained on the latents of another tokenizer.
    """
    rounded = None if config.storage == "full" else restore(stored)
    found = fingerprint(tokenizer, rounded)
    here = TokenizerName(name=config.recipe, fingerprint=found if rounded is None else fingerprint(tokenizer))
    for name, head in config.heads.items():
        if "generate" in head.exports and head.tokenizer is not None:
            require_same(f"the generator {name}", head.tokenizer, here)
    own = TokenizerName(name=config.recipe, fingerprint=found)
    heads = {
        name: head.model_copy(update={"tokenizer": own}) if "generate" in head.exports else head
        for name, head in config.heads.items()
    }
    return config.model_copy(update={"fingerprint": found, "heads": heads})


def _fill(folder: Path, tokenizer: Tokenizer, config: ArtefactConfig, critics: Mapping[str, Critic]) -> None:
    stored = compress(_core_state(tokenizer), config.storage)
    config = _identified(tokenizer, config, stored)
    write_weights(folder / WEIGHTS, stored)
    for objective, children in head_modules(tokenizer, config).items():
        head = folder / "heads" / objective
        head.mkdir(parents=True)
        write_weights(head / WEIGHTS, compress(_state(children), config.storage))
        (head / "config.json").write_text(
            json.dumps(config.heads[objective].model_dump(mode="json"), indent=2) + "\n", encoding="utf-8"
        )
    write_critics(folder, critics)
    height, width = sides(config.image_size)
    size = {"height": height, "width": width}
    preprocessor = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size if height != width else {"shortest_edge": height},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": size,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": config.image_mean,
        "image_std": config.image_std,
    }
    text = json.dumps(preprocessor, indent=2) + "\n"
    (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")
    if notices := tokenizer.encoder.notices():
        text = "".join(f"{line}\n" for line in notices)
        (folder / "NOTICE").write_text(text, encoding="utf-8", errors="backslashreplace")
    (folder / CARD).write_bytes(signed(model_card(tokenizer, config)))
    # Last: an incomplete copy is then not recognised as an artefact.
    (folder / "config.json").write_text(config.dump(), encoding="utf-8")
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    write_sums(folder, [name for name in files if name != CARD])


def _core_state(tokenizer: Tokenizer) -> dict[str, Tensor]:
    modules = {"encoder": tokenizer.encoder, "bottleneck": tokenizer.bottleneck, "decoder": tokenizer.decoder}
    return _state({name: module for name, module in modules.items() if module is not None})


def _state(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        (key if isinstance(module, nn.ParameterDict) else f"{name}.{key}"): value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


def _readable(folder: Path) -> bool:
    try:
        read_config(folder)
    except CheckpointError:
        return False
    return True
