"""Builds a tokenizer from component tables and loads weights of a training state into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from vtp_core.artefact.config import ArtefactConfig
from vtp_core.bottleneck import Bottleneck
from vtp_core.config import ComponentConfig, ObjectiveConfig
from vtp_core.decoder import Decoder
from vtp_core.encoder import Encoder
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.objective import Objective
from vtp_core.parameters import Dims
from vtp_core.plugins import Plugins
from vtp_core.plugins.hookspecs import Kind
from vtp_core.recipe.history import update_table
from vtp_core.recipe.reading.component import read_component
from vtp_core.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class TokenizerNetworks:
    """The three networks of a tokenizer, and the dimensions that they determine."""

    encoder: Encoder
    bottleneck: Bottleneck
    decoder: Decoder | None
    dims: Dims


def build_networks(
    plugins: Plugins,
    encoder: ComponentConfig,
    bottleneck: ComponentConfig,
    decoder: ComponentConfig | None,
    *,
    depth: int | None = None,
) -> TokenizerNetworks:
    """Builds the networks in order; each receives the dimensions of those before it.

    Args:
        plugins: Where components are looked up.
        encoder: Its table.
        bottleneck: Its table.
        decoder: Its table; None builds none.
        depth: Number of encoder blocks that the others are built for; None: the encoder's.
    """
    encoder_module: Encoder = plugins.find("encoder", encoder.use).load_target()(encoder)
    encoder_module.table = encoder
    dims = Dims(
        width=encoder_module.width,
        patch=encoder_module.patch,
        depth=encoder_module.depth if depth is None else depth,
        has_cls=encoder_module.has_cls,
        tap_widths=encoder_module.tap_widths,
    )
    bottleneck_module: Bottleneck = plugins.find("bottleneck", bottleneck.use).load_target()(bottleneck, dims)
    bottleneck_module.table = bottleneck
    dims = replace(dims, channels=bottleneck_module.channels, codebook_sizes=bottleneck_module.codebook_sizes)
    decoder_module: Decoder | None = None
    if decoder is not None:
        decoder_module = cast(Decoder, plugins.find("decoder", decoder.use).load_target()(decoder, dims))
        dims = replace(dims, value_range=decoder_module.value_range)
    return TokenizerNetworks(
        encoder=encoder_module, bottleneck=bottleneck_module, decoder=decoder_module, dims=dims
    )


def assemble(config: ArtefactConfig, plugins: Plugins) -> Tokenizer:
    """A tokenizer with fresh weights, in eval mode; torch's random state stays as it was.

    Raises:
        CheckpointError: A table is not valid for its component, or the statistics of the latents have
            another number of channels.
        UsageError: A component is not installed.
    """
    config = _current(config, plugins)
    with torch.random.fork_rng(devices=[]):
        networks = build_networks(
            plugins,
            _read("encoder", config.encoder, plugins),
            _read("bottleneck", config.bottleneck, plugins),
            None if config.decoder is None else _read("decoder", config.decoder, plugins),
        )
        channels = networks.bottleneck.channels
        if config.latents_mean is not None and len(config.latents_mean) != channels:
            raise CheckpointError(
                f"config.json: latents_mean has {len(config.latents_mean)} values, the latent {channels} "
                "channels; the file was edited"
            )
        exports: dict[str, nn.Module] = {}
        for name, head in config.heads.items():
            table = _read("objective", head.objective, plugins)
            target: type[Objective] = plugins.find("objective", table.use).load_target()
            if not head.exports or not head.exports.items() <= target.exports.items():
                # Before it is built: another kind of objective may read files or download a network.
                raise CheckpointError(
                    f"config.json: heads.{name}: objective {table.use!r} exports "
                    f"{dict(target.exports) or 'nothing'}, not {head.exports}"
                )
            objective = target(cast(ObjectiveConfig, table), networks.dims)
            for capability, child in head.exports.items():
                exports[export_key(exports, name, capability)] = _child(objective, name, child)
    tokenizer = Tokenizer(
        networks.encoder, networks.bottleneck, networks.decoder, exports, config=config
    ).eval()
    return tokenizer.requires_grad_(False)


def export_key(taken: Mapping[str, Any], objective: str, capability: str) -> str:
    """Key of an export: the bare capability for the first objective that has it, else with its name."""
    return f"{objective}/{capability}" if capability in taken else capability


def head_modules(tokenizer: Tokenizer, config: ArtefactConfig) -> dict[str, dict[str, nn.Module]]:
    """Objective -> its exported child modules by name, each once; a parameter is in a `ParameterDict`."""
    heads: dict[str, dict[str, nn.Module]] = {}
    taken: dict[str, None] = {}
    for name, head in config.heads.items():
        for capability, child in head.exports.items():
            key = export_key(taken, name, capability)
            taken[key] = None
            heads.setdefault(name, {})[child] = tokenizer.exports[key]
    return heads


def training_modules(tokenizer: Tokenizer) -> dict[str, nn.Module]:
    """The tokenizer's networks by their names in checkpoints."""
    assert tokenizer.config is not None
    modules: dict[str, nn.Module] = {
        "tokenizer.encoder": tokenizer.encoder,
        "tokenizer.bottleneck": tokenizer.bottleneck,
    }
    if tokenizer.decoder is not None:
        modules["tokenizer.decoder"] = tokenizer.decoder
    for objective, children in head_modules(tokenizer, tokenizer.config).items():
        direct: dict[str, Any] = {}
        for child, module in children.items():
            if isinstance(module, nn.ParameterDict):
                direct.update(module.items())
            else:
                modules[f"objectives.{objective}.{child}"] = module
        if direct:
            modules[f"objectives.{objective}"] = nn.ParameterDict(direct)
    return modules


def teacher_modules(tokenizer: Tokenizer, weights: Literal["student", "teacher"]) -> frozenset[str]:
    """Names of the networks that are wanted as their moving averages: all, or heads that ask for it."""
    assert tokenizer.config is not None
    heads = {
        f"objectives.{name}" for name, head in tokenizer.config.heads.items() if head.weights == "teacher"
    }
    names = training_modules(tokenizer)
    return frozenset(n for n in names if weights == "teacher" or ".".join(n.split(".")[:2]) in heads)


def load_training_state(
    tokenizer: Tokenizer, state: Mapping[str, Tensor], weights: Literal["student", "teacher"]
) -> list[str]:
    """Loads whole (unsharded) tensors named as in a checkpoint: ``tokenizer.*``, ``objectives.*``, ``ema.*``.

    Args:
        tokenizer: What `assemble` returned.
        state: Checkpoint name -> tensor.
        weights: ``"teacher"`` takes the moving average of every network that has one. Heads whose ``weights``
            say so are averages in any case.

    Returns:
        Networks for which a teacher was asked and none exists; they have the student's weights.

    Raises:
        CheckpointError: A tensor is missing or has another shape.
    """
    without_teacher = []
    averages = teacher_modules(tokenizer, weights)
    for name, module in training_modules(tokenizer).items():
        prefix = name
        own = module.state_dict()
        if name in averages and own:
            if any(f"ema.{name}.{key}" in state for key in own):
                prefix = f"ema.{name}"
            else:
                without_teacher.append(name)
        chosen = {}
        for key, tensor in own.items():
            found = state.get(f"{prefix}.{key}")
            if found is None or found.shape != tensor.shape:
                shape = None if found is None else list(found.shape)
                what = "missing" if shape is None else f"of shape {shape}, not {list(tensor.shape)}"
                raise CheckpointError(
                    f"checkpoint: {prefix}.{key} is {what}; is it a checkpoint of this recipe?"
                )
            chosen[key] = found
        module.load_state_dict(chosen, strict=True)
    return without_teacher


def _read(kind: Kind, table: Mapping[str, Any], plugins: Plugins) -> ComponentConfig:
    """The table, without the pretrained weights that the artefact holds itself."""
    if isinstance(use := table.get("use"), str):
        plugins.find(kind, use).load_config()
    try:
        return read_component(kind, table, plugins).restored()
    except UsageError as error:
        raise CheckpointError(
            f"config.json: {error}; the file was edited or written by another version"
        ) from error


def _current(config: ArtefactConfig, plugins: Plugins) -> ArtefactConfig:
    """The config with renamed keys of its components replaced."""
    heads = {
        name: head.model_copy(update={"objective": update_table("objective", head.objective, plugins)})
        for name, head in config.heads.items()
    }
    decoder = None if config.decoder is None else update_table("decoder", config.decoder, plugins)
    tables = {
        "encoder": update_table("encoder", config.encoder, plugins),
        "bottleneck": update_table("bottleneck", config.bottleneck, plugins),
    }
    return config.model_copy(update={**tables, "decoder": decoder, "heads": heads})


def _child(objective: Objective, name: str, child: str) -> nn.Module:
    module = dict(objective.named_children()).get(child)
    parameter = dict(objective.named_parameters(recurse=False)).get(child)
    if parameter is not None:
        return nn.ParameterDict({child: parameter})
    if module is None:
        raise CheckpointError(f"config.json: objective {name} has no module {child!r} to export")
    return module
