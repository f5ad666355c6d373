"""`python -m benchmarks.gpu.smallest DEVICE`: every kernel on its smallest case, for a memory checker."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from vtp_core.ops import (
    AttentionChoice,
    AttentionKernel,
    Rope,
    SearchChoice,
    SearchKernel,
    nearest_code,
    search_choice,
    vit_attention,
)
from vtp_plugins.bench.peers.ours import usable


def run(device: str, tell: Callable[[str], None]) -> None:
    """Runs each implementation that the device has, and compares the indices of the searches.

    Raises:
        RuntimeError: There is none, or an index is wrong.
    """
    torch.manual_seed(0)
    searches, attentions = usable(SearchKernel, device), usable(AttentionKernel, device)
    if not searches or not attentions:
        raise RuntimeError(f"no kernels for {device} can run here")
    for kernel in searches:
        for rows, codes, width in ((5, 7, 3), (70, 130, 20)):
            x, c = torch.randn(rows, width, device=device), torch.randn(codes, width, device=device)
            index, _ = nearest_code(x, c, implementation=SearchChoice((kernel,)))
            right, _ = nearest_code(x.cpu(), c.cpu(), implementation=search_choice("reference", []))
            if not torch.equal(index.cpu(), right):
                raise RuntimeError(f"nearest_code {kernel.name}: an index is wrong")
        tell(f"ran nearest_code {kernel.name}")
    for kernel in attentions:
        for dtype in (torch.float32, torch.bfloat16):
            _attend(kernel, dtype, device)
        tell(f"ran attention {kernel.name}, forward and backward, dense and packed")
    tell("all ran")


def _attend(kernel: AttentionKernel, dtype: torch.dtype, device: str) -> None:
    """Dense with a token that is not rotated, and packed with an empty sequence."""
    weight = torch.rand(32, device=device, requires_grad=True)
    for shape, starts in (((1, 2, 9, 32), None), ((12, 2, 32), torch.tensor([0, 5, 5, 12]))):
        q, k, v = (torch.randn(shape, device=device).to(dtype).requires_grad_() for _ in range(3))
        positions = 8 if starts is None else 12
        angles = torch.randn(positions, 16, device=device).repeat(1, 2)
        out: Tensor = vit_attention(
            q, k, v, q_norm=weight, k_norm=weight, rope=Rope(angles.cos(), angles.sin()), cu_seqlens=starts,
            implementation=AttentionChoice((kernel,)),
        )  # fmt: skip
        gradients = torch.autograd.grad(out.float().square().sum(), (q, k, v, weight))
        if not all(bool(x.isfinite().all()) for x in (out, *gradients)):
            raise RuntimeError(f"attention {kernel.name}: a value is not finite")


if __name__ == "__main__":
    run(sys.argv[1], lambda line: print(line, flush=True))
