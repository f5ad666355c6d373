"""The attention layer: one call for all crop sets where the implementation packs; joined gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vtp_core.ops import AttentionChoice, attention_choice
from vtp_core.ops.attention_choice import AttentionKernel
from vtp_core.ops.attention_torch import TORCH_KERNELS
from vtp_plugins.kernels.cpu.attention import KERNEL
from vtp_plugins.vit.attention import Attention, CropRows, Layout, split
from vtp_plugins.vit.rope import AxialRope

WIDTH, HEADS = 32, 2


def layout() -> Layout:
    """Two sets with a class token, one without."""
    rope = AxialRope(WIDTH // HEADS, base=100.0, dtype="float32", saved=False)
    like = torch.zeros(1)
    return Layout(
        [
            CropRows(2, 13, rope((3, 4), like)),
            CropRows(5, 5, rope((2, 2), like)),
            CropRows(3, 6, rope((2, 3), like)),
        ]
    )


def layer() -> Attention:
    built = Attention(WIDTH, HEADS, qk_norm=True)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return built


class Recorder:
    """The reference, remembering how it was called."""

    def __init__(self) -> None:
        self.calls: list[Tensor | None] = []
        self.run = attention_choice("reference").kernels[0].run

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, **arguments: Any) -> tuple[Tensor, Tensor | None]:
        self.calls.append(arguments["cu_seqlens"])
        return self.run(q, k, v, **arguments)


@pytest.mark.parametrize("packs", [False, True])
def test_crop_sets_share_a_call_where_the_implementation_packs(packs: bool) -> None:
    recorder, crops, built = Recorder(), layout(), layer()
    kernel = AttentionKernel(
        name="recorder", run=recorder, refuses=lambda case: None, suits=lambda case: True, packs=packs
    )
    built.implementation = AttentionChoice((kernel,))
    built(torch.randn(2 * 13 + 5 * 5 + 3 * 6, WIDTH), crops)
    if packs:
        [bounds] = recorder.calls
        lengths = [13] * 2 + [5] * 5 + [6] * 3
        assert bounds is not None and bounds.diff().tolist() == lengths
    else:
        assert recorder.calls == [None] * 3
    recorder.calls.clear()
    built(torch.randn(2 * 13, WIDTH), Layout(crops[:1]))
    assert recorder.calls == [None]


def kernels() -> list[AttentionKernel]:
    own = [] if KERNEL.missing() else [KERNEL]
    return [*own, *(replace(kernel, packs=True) for kernel in TORCH_KERNELS)]


@pytest.mark.parametrize("kernel", kernels(), ids=lambda kernel: kernel.name)
def test_one_call_equals_a_call_a_set(kernel: AttentionKernel) -> None:
    crops, built = layout(), layer()
    x = torch.randn(2 * 13 + 5 * 5 + 3 * 6, WIDTH, requires_grad=True)
    gradient = torch.randn(len(x), WIDTH)
    results = []
    for packs in (True, False):
        built.implementation = AttentionChoice((replace(kernel, packs=packs),))
        out = built(x, crops)
        results.append([out, *torch.autograd.grad(out, [x, *built.parameters()], gradient)])
    for together, apart in zip(*results, strict=True):
        torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


def test_gradients_that_lie_side_by_side_are_not_copied() -> None:
    qkv = torch.randn(5, 3, 2, 4, requires_grad=True)
    beside = torch.randn(5, 3, 2, 4)
    [joined] = torch.autograd.grad(split(qkv), qkv, beside.unbind(1))
    assert joined.data_ptr() == beside.data_ptr() and torch.equal(joined, beside)


def test_other_gradients_are_joined_by_a_copy() -> None:
    qkv = torch.randn(5, 3, 2, 4, requires_grad=True)
    beside = torch.randn(5, 3, 2, 4)
    q, k, v = beside.unbind(1)
    others = ((k, q, v), (q, k, v.clone()), (q, k, v.transpose(1, 2).contiguous().transpose(1, 2)), (q, q, q))
    for gradients in others:
        [joined] = torch.autograd.grad(split(qkv), qkv, gradients)
        assert torch.equal(joined, torch.stack(gradients, dim=1))


def test_the_split_has_second_derivatives() -> None:
    qkv = torch.randn(3, 3, 1, 2, dtype=torch.float64, requires_grad=True)

    def run(qkv: Tensor) -> Tensor:
        q, k, v = split(qkv)
        return q * k.sin() * v.cos()

    assert torch.autograd.gradgradcheck(run, qkv)
