"""Attention as the layers of a vision transformer call it, forward and backward, on drawn inputs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vtp_core.ops import AttentionCase, AttentionKernel, Rope
from vtp_core.ops.attention_torch import TORCH_KERNELS
from vtp_plugins.kernels.timing import Call
from vtp_plugins.kernels.tuning.shapes import CPU_SHARE, AttentionShape

TOLERANCE = {"float32": (1e-5, 1e-5), "bfloat16": (2e-2, 2e-2)}
"""Largest errors of output and gradients over the norm of the reference, by dtype of the inputs."""

ROTATED_IN_BFLOAT16 = (1e-3, 1e-2)
"""The same for float32 inputs that the rotation rounds to bfloat16: a last bit of the norm can change what is
rounded, and torch rounds the gradients too."""

_BY_NAME = {kernel.name: kernel for kernel in TORCH_KERNELS}


class AttentionProblem:
    """One shape on one device.

    Attributes:
        case: What implementations decide on.
    """

    def __init__(self, shape: AttentionShape, device: torch.device) -> None:
        self.shape = shape
        share = CPU_SHARE if device.type == "cpu" else 1
        lengths = [tokens for count, tokens in shape.runs for _ in range(max(1, count // share))]
        packed = len(shape.runs) > 1
        dtype: torch.dtype = getattr(torch, shape.dtype)
        self.case = AttentionCase(
            device=device.type,
            dtype=dtype,
            tokens=max(lengths),
            width=shape.width,
            packed=packed,
            lse=False,
            rope=None if shape.rope is None else getattr(torch, shape.rope),
            index=device.index,
        )
        draw = torch.Generator(device).manual_seed(0)

        def drawn(*size: int) -> Tensor:
            return torch.randn(*size, device=device, generator=draw)

        total = sum(lengths)
        qkv = drawn(total, 3, shape.heads, shape.width).to(dtype)
        if packed:
            views = qkv.unbind(1)
        else:
            views = tuple(x.unflatten(0, (len(lengths), lengths[0])).transpose(1, 2) for x in qkv.unbind(1))
        self.rows = [x.detach().requires_grad_() for x in views]
        self.norms: list[Tensor] = []
        self.rope: Rope | None = None
        if self.case.rope is not None:
            self.norms = [(drawn(shape.width) * 0.1 + 1).requires_grad_() for _ in range(2)]
            angles = drawn(total if packed else lengths[0] - 1, shape.width // 2).repeat(1, 2)
            self.rope = Rope(angles.cos().to(self.case.rope), angles.sin().to(self.case.rope))
        # On the host, where a layer makes it.
        self.starts = torch.tensor([0, *lengths]).cumsum(0) if packed else None
        self.gradient = drawn(*views[0].shape).to(dtype)

    def attributes(self) -> Mapping[str, object]:
        """What a ranking distinguishes."""
        return {
            "dtype": self.shape.dtype,
            "packed": self.case.packed,
            "lse": False,
            "rope": self.shape.rope,
            "tokens": self.case.tokens,
            "width": self.case.width,
        }

    def work(self) -> Mapping[str, float]:
        """What a step can't avoid: operations of products, exponentials, bytes read and written."""
        batch = self.rows[0].shape[0]
        lengths = [self.case.tokens] * batch if self.starts is None else self.starts.diff().tolist()
        pairs = float(self.shape.heads * sum(length**2 for length in lengths))
        flop = 14 * self.shape.width * pairs  # two products forward, five backward
        return {"flop": flop, "exponentials": 2 * pairs, "bytes": 8.0 * self.gradient.nbytes}

    def calls(self, kernel: AttentionKernel) -> Mapping[str, Call]:
        """Forward without a graph, and forward with backward."""

        def forward() -> Tensor:
            with torch.no_grad():
                return self._output(kernel, self.rows, self.norms)

        return {"forward": forward, "step": lambda: self._step(kernel, self.rows, self.norms)}

    def disagreement(self, kernel: AttentionKernel) -> str | None:
        """Compares output and gradients with those of the reference in float64."""
        of_output, of_gradients = TOLERANCE[self.shape.dtype]
        if (self.shape.dtype, self.shape.rope) == ("float32", "bfloat16"):
            of_output, of_gradients = ROTATED_IN_BFLOAT16
        names = ("output", *(f"gradient of {name}" for name in ("q", "k", "v", "q_norm", "k_norm")))
        found = self._step(kernel, self.rows, self.norms)
        for name, mine, right in zip(names, found, self._expected, strict=False):
            if mine.shape != right.shape:
                return f"{name} has shape {tuple(mine.shape)} instead of {tuple(right.shape)}"
            tolerance = of_output if name == "output" else of_gradients
            error = ((mine.double() - right).norm() / right.norm()).item()
            if not error <= tolerance:
                return f"{name} is off by {error:.1e} of its norm, allowed are {tolerance:.0e}"
        return None

    def yardsticks(self) -> Mapping[str, Mapping[str, Call]]:
        """SDPA held to its flash backend, which exists on CUDA devices below float32."""
        if self.case.device != "cuda" or self.shape.dtype == "float32":
            return {}

        def flash(call: Call) -> Call:
            def limited() -> object:
                with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                    return call()

            return limited

        return {"SDPA, flash": {name: flash(call) for name, call in self.calls(_BY_NAME["sdpa"]).items()}}

    @cached_property
    def _expected(self) -> list[Tensor]:
        rows, norms = (
            [x.detach().double().requires_grad_() for x in group] for group in (self.rows, self.norms)
        )
        return self._step(_BY_NAME["reference"], rows, norms)

    def _step(self, kernel: AttentionKernel, rows: list[Tensor], norms: list[Tensor]) -> list[Tensor]:
        out = self._output(kernel, rows, norms)
        gradients = torch.autograd.grad(out, [*rows, *norms], self.gradient.to(out.dtype))
        return [out.detach(), *gradients]

    def _output(self, kernel: AttentionKernel, rows: list[Tensor], norms: list[Tensor]) -> Tensor:
        q_norm, k_norm = norms or (None, None)
        out, _ = kernel.run(
            *rows,
            q_norm=q_norm,
            k_norm=k_norm,
            rope=self.rope,
            cu_seqlens=self.starts,
            scale=self.shape.width**-0.5,
            return_lse=False,
        )
        return out
