"""What the checks of encoders, bottlenecks and decoders share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vtp_core.bottleneck import Bottleneck
from vtp_core.decoder import Decoder
from vtp_core.encoder import Encoder
from vtp_core.testing.errors import ConformanceError

Part = Encoder | Bottleneck | Decoder


def expect(holds: bool, message: str) -> None:
    """Raises ConformanceError with `message` unless `holds`."""
    if not holds:
        raise ConformanceError(message)


def expect_close(found: Tensor, expected: Tensor, message: str, tolerance: float = 1e-4) -> None:
    """Raises ConformanceError unless two tensors of one shape differ by rounding alone."""
    expect(
        found.shape == expected.shape, f"{message}: shape {tuple(found.shape)} for {tuple(expected.shape)}"
    )
    if not expected.numel():
        return
    error = (found.detach().double() - expected.detach().double()).abs().max().item()
    scale = max(expected.detach().double().abs().max().item(), 1e-6)
    expect(error <= tolerance * scale, f"{message} (off by {error:.3g} of {scale:.3g})")


@contextmanager
def unchanged(module: nn.Module, what: str) -> Iterator[None]:
    """Raises ConformanceError if a parameter or buffer changes in the body."""
    before = {name: value.clone() for name, value in module.state_dict().items()}
    yield
    for name, value in module.state_dict().items():
        same = torch.equal(value.nan_to_num(), before[name].nan_to_num())
        expect(same, f"{what} changed {name!r}: state changes in after_step or calibrate only")


def check_structure(part: Part, build: Callable[[], Part]) -> None:
    """Builds on the meta device; a state_dict round trip; blocks and rules name what is there."""
    try:
        with torch.device("meta"):
            build()
    except Exception as error:
        raise ConformanceError(
            f"can't be built on the meta device ({error}), as `vtp plan` and artefacts do: don't read values "
            "of tensors in __init__"
        ) from error
    own = {id(module) for module in part.modules()}
    if not isinstance(part, Bottleneck):
        blocks = list(part.blocks())
        expect(len({id(block) for block in blocks}) == len(blocks), "blocks() names a module twice")
        expect(all(id(block) in own for block in blocks), "blocks() names a module that is no child")
    bare = [name for name, parameter in part.named_parameters() if parameter.ndim == 0]
    expect(not bare, f"parameter {bare[:1]} has no dimension, so it can't be sharded: give it shape (1,)")


def check_gradients(part: Part, allowed: str = "") -> None:
    """Every trainable parameter has a finite gradient.

    Args:
        part: After a backward pass.
        allowed: A parameter whose name contains this may have none.
    """
    for name, parameter in part.named_parameters():
        if parameter.requires_grad and not (allowed and allowed in name):
            expect(
                parameter.grad is not None, f"parameter {name!r} gets no gradient; leave it out or freeze it"
            )
            expect(bool(parameter.grad.isfinite().all()), f"the gradient of {name!r} is not finite")  # type: ignore[union-attr]


@contextmanager
def bfloat16() -> Iterator[None]:
    """Autocast as in a run of ``precision = "bfloat16"``."""
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        yield
