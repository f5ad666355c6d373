"""Tokenizers of shipped recipes with fresh weights, for the cases `encode` and `decode`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from vtp_core.artefact.assembly import build_networks
from vtp_core.errors import VtpError
from vtp_core.ops import attention_choice
from vtp_core.plugins import load_plugins
from vtp_core.recipe.load import load_recipe
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.bench.config import BenchOptions
from vtp_plugins.bench.sizes import sizes
from vtp_plugins.kernels.cpu.packed_linear import pack_linears

SHAPES = ("vtp_s:8x256",)
FORMAT = "RECIPE:IMAGESxPIXELS"

CLOSE = {"float32": 4e-3, "bfloat16": 5e-2}
"""Relative error that is allowed: rotations round to bfloat16 and carry small differences on. In float32 it
is the step of bfloat16, for torch.compile leaves those roundings out."""


def read(shape: str) -> tuple[str, int, int]:
    """Recipe, images and edge in pixels.

    Raises:
        ValueError: It is not in the format.
    """
    recipe, _, numbers = shape.rpartition(":")
    if not recipe:
        raise ValueError("no recipe in front")
    images, pixels = sizes(numbers, 2)
    return recipe, images, pixels


def build_tokenizer(recipe_name: str, options: BenchOptions) -> Tokenizer:
    """The tokenizer of a recipe that ships with the framework, in evaluation mode.

    Raises:
        ValueError: There is no such recipe.
    """
    plugins = load_plugins()
    try:
        recipe = load_recipe(recipe_name, plugins=plugins)
    except VtpError as error:
        raise ValueError(str(error).splitlines()[0]) from error
    torch.manual_seed(0)
    parts = build_networks(plugins, recipe.encoder, recipe.bottleneck, recipe.decoder)
    assert parts.decoder is not None
    model = Tokenizer(parts.encoder, parts.bottleneck, parts.decoder)
    model.eval().requires_grad_(False)
    return model.to(options.device, getattr(torch, options.precision))


def variants(
    model: Tokenizer, work: Callable[[Tokenizer], Tensor], options: BenchOptions
) -> Mapping[str, Callable[[], Tensor]]:
    """The same work with our attention, with packed linear layers too, and with SDPA, as it is and compiled.

    Args:
        model: The tokenizer; each variant has a copy that shares its weights.
        work: What is timed.
        options: Whether to include the peers.
    """
    found = {"vtp": _with_attention(_copy(model), "auto", work)}
    packed = _copy(model)
    if pack_linears(packed):
        found["vtp, packed linear layers"] = _with_attention(packed, "auto", work)
    if options.peers:
        found["SDPA"] = _with_attention(_copy(model), "sdpa", work)
        compiled = _with_attention(_copy(model), "sdpa", work)
        found["SDPA, torch.compile"] = torch.compile(compiled)
    return found


def check(found: object, expected: object, close: float) -> str | None:
    """A sentence if two results differ by more than `close` of their norm."""
    assert isinstance(found, Tensor) and isinstance(expected, Tensor)
    error = ((found - expected).double().norm() / expected.double().norm()).item()
    return None if error <= close else f"relative error {error:.1e}"


def _copy(model: Tokenizer) -> Tokenizer:
    """A copy of the modules that shares the weights."""
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})


def _with_attention(model: Tokenizer, name: str, work: Callable[[Tokenizer], Tensor]) -> Callable[[], Tensor]:
    choice = attention_choice(name)
    for part in (model.encoder, model.decoder):
        assert isinstance(part, nn.Module)
        use_attention = getattr(part, "use_attention", None)
        if use_attention is not None:
            use_attention(choice)

    def call() -> Tensor:
        with torch.no_grad():  # an inference tensor can't be traced
            return work(model)

    return call
