"""Terms whose gradient stops at a tensor, and adaptive weights against the gradients of other objectives.

Source: Esser et al. 2021 (VQGAN), eq. 7: the adversarial weight is the ratio of two gradient norms at the
decoder's last layer. There ``through = "output"`` takes the norms at the decoder's output instead.
"""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vtp_core.training.forward.cut import Cut
from vtp_core.training.forward.forward import Forward
from vtp_core.training.ranks.world import World

_log = logging.getLogger(__name__)


def warn_alone(name: str) -> None:
    """Warns once per process that an objective's adaptive weight is 0: no other gradient is there."""
    _warn_once(
        f"objectives.{name}: its weight adapts to the gradients of other objectives on the same output, "
        "and none has one there: it trains nothing. Add one on its view, or make the weight fixed"
    )


@cache
def _warn_once(message: str) -> None:
    _log.warning(message)


def confined(loss: Tensor, at: Tensor, gradient: Tensor) -> Tensor:
    """A scalar with the value of `loss` and `gradient` as its only gradient, with respect to `at`."""
    return loss.detach() + ((at - at.detach()) * gradient).sum()


def output_norm(gradient: Tensor, world: World) -> Tensor:
    """Norm of the global loss's gradient with respect to all ranks' rows, fp32 or wider.

    Args:
        gradient: Of the local share, (B, ...), which is W times that of the global mean.
        world: The ranks to add over.
    """
    wide = gradient.double() if gradient.dtype == torch.float64 else gradient.float()
    return world.sum(wide.square().sum()).sqrt() / world.size


def last_layer_norms(
    images: Forward, layer: nn.Module, gradients: list[Tensor], world: World
) -> list[Tensor]:
    """Norms of the last layer's weight gradient for given gradients at the decoder's output.

    Rebuilt from output gradient and layer input, so it works when the weights are sharded.

    Args:
        images: The decoder's forward.
        layer: Linear or 2-D convolution of the decoder.
        gradients: Each (B, 3, H, W), of a local share with respect to the images.
        world: The ranks to average over.
    """
    totals = [torch.zeros(()) for _ in gradients]
    for start, cut in zip(images.starts, images.cuts, strict=True):
        for rows, layer_input, layer_output, image in _replay(cut, layer):
            local = slice(start + rows.start, start + rows.stop)
            for position, gradient in enumerate(gradients):
                part = gradient[local]
                if part.shape[0] < image.shape[0]:  # rows that the asking objective doesn't use
                    part = torch.cat(
                        [part, image.new_zeros(image.shape[0] - part.shape[0], *image.shape[1:])]
                    )
                (at_layer,) = torch.autograd.grad(
                    image, layer_output, part.to(image.dtype), retain_graph=True
                )
                totals[position] = totals[position] + _weight_gradient(layer, layer_input, at_layer)
    return [world.average(total).norm() for total in totals]


def _replay(cut: Cut, layer: nn.Module) -> list[tuple[slice, Tensor, Tensor, Tensor]]:
    """(rows, layer input, layer output, image) of each chunk, run again with its graph."""
    seen: list[tuple[Tensor, Tensor]] = []

    def capture(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((inputs[0].detach(), output))

    handle = layer.register_forward_hook(capture)
    try:
        return [(rows, *seen[-1], part.rows) for rows, part in cut.replay()]
    finally:
        handle.remove()


def _weight_gradient(layer: nn.Module, layer_input: Tensor, output_gradient: Tensor) -> Tensor:
    wide = torch.float64 if layer_input.dtype == torch.float64 else torch.float32
    # The gradient of a linear map with respect to its weight does not depend on the weight's value.
    weight: Tensor = layer.weight  # type: ignore[assignment]
    stand_in = torch.zeros(weight.shape, dtype=wide, device=layer_input.device, requires_grad=True)
    with torch.enable_grad(), torch.autocast(layer_input.device.type, enabled=False):
        if isinstance(layer, nn.Linear):
            output = F.linear(layer_input.to(wide), stand_in)
        elif isinstance(layer, nn.Conv2d):
            output = layer._conv_forward(layer_input.to(wide), stand_in, None)
        else:
            raise TypeError(f"last_layer() must be nn.Linear or nn.Conv2d, not {type(layer).__name__}")
    (gradient,) = torch.autograd.grad(output, stand_in, output_gradient.to(wide))
    return gradient
