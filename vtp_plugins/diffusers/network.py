"""Builds diffusers' class from settings, whole or the half that encodes, quantises or decodes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, Literal

import torch

from vtp_core.errors import CheckpointError, UsageError
from vtp_plugins.diffusers.config import DiffusersConfig
from vtp_plugins.diffusers.layout import CLASS

Half = Literal["encode", "quantize", "decode"]

IGNORED = ("force_upcast", "block_out_channels")
"""Settings that published files have and the class doesn't: a hint for pipelines, and a key that
AutoencoderTiny writes itself."""

_HALVES: Mapping[Half, tuple[str, ...]] = {
    "encode": ("encoder", "quant_conv"),
    "quantize": ("quantize",),
    "decode": ("post_quant_conv", "decoder"),
}


def library(purpose: str) -> Any:
    """The library, imported when first used.

    Args:
        purpose: What needs it, for the message.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return importlib.import_module("diffusers")
    except ImportError as error:
        raise UsageError(
            f"{purpose} needs the package diffusers ({error}); install it: pip install 'vtp-core[diffusers]'"
        ) from None


def find_class(name: str) -> Any:
    """One of diffusers' classes.

    Raises:
        UsageError: The installed version lacks it, or a package that it needs.
    """
    found = library(f"a folder of {name}")
    try:
        return getattr(found, name)
    except (AttributeError, ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"diffusers {found.__version__} has no {name} ({reason}); upgrade diffusers"
        ) from None


def accepted(model: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that diffusers' class takes; a null is its default.

    Raises:
        CheckpointError: A setting that this version of the class doesn't know.
        UsageError: The version lacks the class.
    """
    name = model[CLASS]
    known = inspect.signature(find_class(name).__init__).parameters
    given = {key: value for key, value in model.items() if not key.startswith("_")}
    if unknown := sorted(given.keys() - known.keys() - set(IGNORED)):
        version = library(name).__version__
        raise CheckpointError(
            f"{unknown[0]} is a setting that {name} of diffusers {version} doesn't know; upgrade diffusers"
        )
    return {key: value for key, value in given.items() if key in known and value is not None}


def build(config: DiffusersConfig) -> Any:
    """A class of diffusers with fresh weights, in the settings of a table.

    Raises:
        CheckpointError: It can't be built of them.
        UsageError: The installed version lacks the class, or can't build it.
    """
    name = config.model[CLASS]
    kind, settings = find_class(name), accepted(config.model)
    # Only says how VQModel's `decode` is called: latents are given to it here, never codes.
    settings.pop("lookup_from_codebook", None)
    if config.statistics_shape:
        empty = torch.zeros(config.statistics_shape, device="cpu")
        settings |= {"latents_mean": empty, "latents_std": empty}
    try:
        return kind(**settings)
    except AttributeError as error:
        # AutoencoderRAE of diffusers 0.42 with SigLIP, which transformers 5 lays out otherwise.
        raise UsageError(
            f"{name} of diffusers {library(name).__version__} does not fit the installed transformers "
            f"({error}); install the versions that its folder was made with"
        ) from None
    except NameError as error:
        raise UsageError(f"{name} needs transformers ({error}); pip install transformers") from None


def half_of(model: Any, half: Half) -> Any:
    """The model without the modules of its other halves; its own `encode` or `decode` still works."""
    kept = _HALVES[half]
    for name in [name for name, _ in model.named_children() if name not in kept]:
        delattr(model, name)
    if half == "quantize":
        return model.quantize
    return model
