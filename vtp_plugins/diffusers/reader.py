"""Reads a folder of diffusers: settings first, then names and shapes of weights, then the tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

import vtp_core
from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.config import ArtefactConfig
from vtp_core.artefact.outline import outline
from vtp_core.artefact.weights import check_tensors
from vtp_core.config import first_problem
from vtp_core.errors import CheckpointError
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.diffusers import plugin
from vtp_plugins.diffusers.layout import CLASS, layout_of
from vtp_plugins.diffusers.network import accepted
from vtp_plugins.diffusers.weights import find_weights

CONFIG_BYTES = 64_000_000
"""Largest ``config.json`` that is read: AutoencoderRAE's has the statistics of every channel and position."""
PARTS = ("encoder", "decoder", "bottleneck")
OWN = "AutoencoderVTP"
"""Our own class in diffusers (`vtp_plugins.diffusers.model`)."""
_PROTOCOL = "as stated in the folder of diffusers"
_COMPUTED = "decoder.decoder_pos_embed"
"""Positions that AutoencoderRAE computes; its own loader ignores them too."""


def read_settings(folder: Path) -> dict[str, Any] | None:
    """The ``config.json`` of a folder of diffusers, or of its subfolder ``vae`` if it is a pipeline's.

    Returns:
        None if there is none that names a class of diffusers.
    """
    path = model_folder(folder) / "config.json"
    try:
        if not path.is_file() or path.stat().st_size > CONFIG_BYTES:
            return None
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    named = isinstance(raw, dict) and isinstance(raw.get(CLASS), str) and "_diffusers_version" in raw
    return raw if named else None


def model_folder(folder: Path) -> Path:
    """The folder itself, or the one of a pipeline's autoencoder."""
    for name in ("vae", "vqvae"):
        if (folder / "model_index.json").is_file() and not (folder / "config.json").exists():
            if (folder / name / "config.json").is_file():
                return folder / name
    return folder


def read_model(folder: Path) -> Tokenizer:
    """The tokenizer of a folder that holds one of diffusers' autoencoders; see `vtp_core.load`."""
    raw = read_settings(folder)
    if raw is None:
        raise CheckpointError(f"{folder}: no config.json of diffusers (no {CLASS}, _diffusers_version)")
    folder = model_folder(folder)
    try:
        if raw[CLASS] == OWN:
            return _read_own(folder, raw)
        layout = layout_of(raw)
        table: dict[str, Any] = {"use": "diffusers", "model": _settings(raw)}
    except CheckpointError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from None
    weights = find_weights(folder)
    if layout.name == "AutoencoderRAE" and (statistics := weights.entries.get("_latents_mean")) is not None:
        table["statistics_shape"] = statistics[1]
    config = ArtefactConfig(
        vtp_version=vtp_core.__version__,
        recipe=folder.name if folder.name != "vae" else folder.parent.name,
        encoder=table,
        bottleneck=table,
        decoder=table,
        image_size=layout.image_size,
    )
    plugins = Plugins()
    plugins.add(plugin, "diffusers", distribution="vtp-core")
    shapes = {name: shape for name, (_, shape) in weights.entries.items()}
    extra = {name for name in shapes if name.startswith("bn.")} if layout.statistics is None else set()
    planned = tensors_by_name(outline(config, plugins, shapes))
    names = weights.renamed({**planned, **dict.fromkeys(extra)})
    # diffusers' own loader logs what is missing, foreign or misshapen, and goes on.
    found = {own: weights.entries[name] for own, name in names.items() if own not in {*extra, _COMPUTED}}
    check_tensors(weights.path, found, {name: targets[0] for name, targets in planned.items()})
    tokenizer = assemble(config, plugins)
    tensors = weights.read(names)
    for name, targets in tensors_by_name(tokenizer).items():
        for target in targets:
            target.copy_(tensors[name])
    tokenizer.config = _with_statistics(config, raw, tensors, weights.path)
    return tokenizer


def _read_own(folder: Path, raw: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer in a folder of AutoencoderVTP."""
    try:
        config = ArtefactConfig.model_validate(raw.get("artefact"))
    except ValidationError as error:
        raise CheckpointError(f"artefact: {first_problem(error)}; it was edited") from None
    # The weights may have been trained further since the fingerprint was taken: `name_of` hashes them.
    config = config.model_copy(update={"heads": {}, "fingerprint": None})
    weights, plugins = find_weights(folder), load_plugins()
    planned = outline(config, plugins, {name: shape for name, (_, shape) in weights.entries.items()})
    check_tensors(weights.path, weights.entries, planned.state_dict())
    tokenizer = assemble(config, plugins)
    tensors = weights.read({name: name for name in weights.entries})
    for name, target in tokenizer.state_dict().items():
        target.copy_(tensors[name])
    return tokenizer


def tensors_by_name(tokenizer: Tokenizer) -> dict[str, list[Tensor]]:
    """Name in diffusers -> the tokenizer's tensors of that name; both halves of AutoencoderRAE have some."""
    found: dict[str, list[Tensor]] = {}
    for part in PARTS:
        for name, tensor in getattr(tokenizer, part).state_dict().items():
            found.setdefault(name.removeprefix("model."), []).append(tensor)
    return found


def _settings(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that build the network and say what its latents are; weights hold RAE's statistics."""
    held = ("latents_mean", "latents_std") if raw[CLASS] == "AutoencoderRAE" else ()
    kept = {key: value for key, value in accepted(raw).items() if key not in held}
    return {CLASS: raw[CLASS], **kept}


def _with_statistics(
    config: ArtefactConfig, raw: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path
) -> ArtefactConfig:
    """The config with the latents' statistics of the settings, or of AutoencoderKLFlux2's batch norm."""
    layout = layout_of(raw)
    if layout.statistics is not None:
        mean, std = layout.statistics
    else:
        try:
            moments = [tensors[f"bn.running_{name}"].double() for name in ("mean", "var")]
        except KeyError as error:
            raise CheckpointError(f"{path}: missing {error.args[0]}, the statistics of its latents") from None
        eps = float(raw.get("batch_norm_eps", 1e-4))
        sound = all(
            value.shape == (layout.channels,) and bool(value.isfinite().all()) for value in moments
        ) and bool((moments[1] + eps > 0).all())
        if not sound:
            raise CheckpointError(
                f"{path}: bn.running_mean and bn.running_var are no statistics of {layout.channels} channels"
            )
        mean, std = (tuple(value.tolist()) for value in (moments[0], (moments[1] + eps).sqrt()))
    return config.model_copy(
        update={
            "latents_mean": mean,
            "latents_std": std,
            "scaling_factor": layout.factor,
            "latents_stats_protocol": _PROTOCOL,
        }
    )
