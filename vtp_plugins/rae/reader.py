"""Reads a published RAE: its configuration, then the files that this names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vtp_core.artefact.assembly import assemble
from vtp_core.artefact.config import ArtefactConfig
from vtp_core.artefact.outline import outline
from vtp_core.config import first_problem
from vtp_core.errors import CheckpointError
from vtp_core.plugins import load_plugins
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.pretrained.published import config_of, matched, read_tensors, shapes_of
from vtp_plugins.pretrained.settings import find_settings, inner, read_settings
from vtp_plugins.rae.bottleneck import RaeBottleneck
from vtp_plugins.rae.config import RaeConfig, RaeDecoderConfig, RaeEncoderConfig
from vtp_plugins.rae.decoder import RaeDecoder
from vtp_plugins.rae.encoder import RaeEncoder
from vtp_plugins.rae.layout import IGNORED, decoder_tensors, encoder_tensors
from vtp_plugins.rae.settings import (
    ENCODERS,
    DecoderSettings,
    Networks,
    Preprocessor,
    Stage1,
    heeded,
    read_stage1,
    stage1_table,
)

LEVELS = 4
"""How many folders above the configuration its paths may start at: a clone keeps it three levels down."""
PROTOCOL = "normalised by the published statistics of each channel at each position"


def find_config(path: Path) -> Path | None:
    """The configuration of an RAE: the file itself, or the only one in a folder; None: there is none."""
    found = find_settings(path, lambda raw: stage1_table(raw) is not None)
    return found[0] if len(found) == 1 else None


def read_model(path: Path) -> Tokenizer:
    """The tokenizer of a configuration, in eval mode on the CPU.

    Raises:
        CheckpointError: A file is missing, or a setting or tensor is not what this reader knows.
    """
    stage = read_stage1(path, stage1_table(read_settings(path)) or {})
    folder = path.parent
    encoder_folder = _find(folder, stage.encoder_path, hub=True)
    config = _config(_tables(stage, folder, encoder_folder))
    encoder_path = _weights_of(encoder_folder)
    decoder_path = _find(folder, stage.pretrained_decoder_path)
    encoder_state, decoder_state = read_tensors(encoder_path), read_tensors(decoder_path)
    plugins = load_plugins()
    shapes = {**shapes_of(encoder_state), **shapes_of(decoder_state)}
    encoder, bottleneck, decoder = _networks(outline(config, plugins, shapes))
    ignored = IGNORED[stage.family]
    encoder_state = matched(encoder_path, encoder_state, encoder_tensors(encoder), ignored)
    decoder_state = matched(decoder_path, decoder_state, decoder_tensors(decoder))
    statistics = None
    if stage.normalization_stat_path is not None:
        statistics = _statistics(_find(folder, stage.normalization_stat_path), bottleneck)
    model = assemble(config, plugins)
    encoder, bottleneck, decoder = _networks(model)
    _fill(encoder_tensors(encoder), encoder_state)
    _fill(decoder_tensors(decoder), decoder_state)
    if statistics is not None:
        _fill(bottleneck.state_dict(), statistics)
        _fill({name: decoder.get_buffer(name) for name in statistics}, statistics)
    return model


def _config(networks: Networks) -> ArtefactConfig:
    encoder, numbers = networks.encoder, dict[str, object]()
    if networks.bottleneck.grid is not None:  # what the bottleneck makes is normalised already
        numbers = {
            "latents_mean": (0.0,) * encoder.width,
            "latents_std": (1.0,) * encoder.width,
            "latents_stats_protocol": PROTOCOL,
        }
    return config_of(networks, encoder.side * encoder.patch, **numbers)


def _networks(model: Tokenizer) -> tuple[RaeEncoder, RaeBottleneck, RaeDecoder]:
    encoder, bottleneck, decoder = model.encoder, model.bottleneck, model.decoder
    assert isinstance(encoder, RaeEncoder)
    assert isinstance(bottleneck, RaeBottleneck)
    assert isinstance(decoder, RaeDecoder)
    return encoder, bottleneck, decoder


def _tables(stage: Stage1, folder: Path, encoder_folder: Path) -> Networks:
    """The tables of the three networks, from the owner's configuration and the two of transformers' kind."""
    kind, settings_class = ENCODERS[stage.family]
    encoder_path = encoder_folder / "config.json"
    raw = read_settings(encoder_path)
    if raw.get("model_type") != kind:
        raise CheckpointError(
            f"{encoder_path}: model_type is {raw.get('model_type')!r}; {stage.encoder_cls} takes {kind!r}"
        )
    own = inner(raw, "vision_config") if stage.family == "siglip2" else raw
    settings = heeded(settings_class, encoder_path, own)
    pixels_path = _find(folder, stage.encoder_config_path, hub=True) / "preprocessor_config.json"
    pixels = heeded(Preprocessor, pixels_path, read_settings(pixels_path))
    decoder_path = _find(folder, stage.decoder_config_path) / "config.json"
    theirs = heeded(DecoderSettings, decoder_path, read_settings(decoder_path))
    statistics = {"image_mean": pixels.image_mean, "image_std": pixels.image_std}
    try:
        encoder = RaeEncoderConfig(
            family=stage.family,
            width=settings.hidden_size,
            depth=settings.num_hidden_layers,
            heads=settings.num_attention_heads,
            hidden=settings.hidden,
            eps=settings.layer_norm_eps,
            input_size=stage.encoder_input_size,
            native_patch=settings.patch_size,
            positions=settings.image_size // settings.patch_size,
            patch=stage.decoder_patch_size,
            **statistics,
        )
        if (count := stage.encoder_params.num_tokens) is not None and count != encoder.side**2:
            raise ValueError(f"num_tokens is {count}, the sizes make {encoder.side**2}")
        normalized = stage.normalization_stat_path is not None
        decoder = RaeDecoderConfig(
            width=theirs.decoder_hidden_size,
            depth=theirs.decoder_num_hidden_layers,
            heads=theirs.decoder_num_attention_heads,
            hidden=theirs.decoder_intermediate_size,
            eps=theirs.layer_norm_eps,
            grid=encoder.side,
            normalized=normalized,
            latent_eps=stage.eps,
            **statistics,
        )
        bottleneck = RaeConfig(grid=encoder.side if normalized else None, eps=stage.eps)
        return Networks(encoder=encoder, bottleneck=bottleneck, decoder=decoder)
    except ValueError as error:
        raise CheckpointError(
            f"{folder}: {first_problem(error)}; its configuration files don't fit"
        ) from error


def _statistics(path: Path, bottleneck: RaeBottleneck) -> dict[str, Tensor]:
    found = matched(path, read_tensors(path), bottleneck.state_dict())
    if not bool((found["var"] >= 0).all()):
        raise CheckpointError(f"{path}: var is negative or no number; the file is damaged")
    return found


def _fill(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(state[name])


def _weights_of(folder: Path) -> Path:
    files = [folder / name for name in ("model.safetensors", "pytorch_model.bin")]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise CheckpointError(f"{folder}: no model.safetensors and no pytorch_model.bin; download it again")
    return found


def _find(folder: Path, name: str, *, hub: bool = False) -> Path:
    """A file or folder that the configuration names.

    Args:
        folder: That of the configuration.
        name: A path from there or from a folder above it, or of a file that lies beside the configuration.
        hub: Whether it may be the name of a hub repository: then it is also looked for in the folder
            ``encoder`` and in the hub's cache. Nothing is downloaded.

    Raises:
        CheckpointError: It is nowhere.
    """
    relative = Path(name).expanduser()
    places = [above / relative for above in (folder, *folder.absolute().parents[: LEVELS - 1])]
    places += [folder / relative.name, *([folder / "encoder"] if hub else [])]
    if found := next((place for place in places if place.exists()), None):
        return found
    if hub and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(name, local_files_only=True))
        except (OSError, ValueError):  # not in the cache
            raise CheckpointError(
                f"{folder}: the encoder {name} is not here; download it: `hf download {name} --local-dir "
                f"{folder / 'encoder'}`"
            ) from None
    raise CheckpointError(f"{folder}: {name}, which its configuration names, is not here")
