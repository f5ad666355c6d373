"""A search of the nearest code on normal vectors and codes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from vtp_core.ops import SearchCase, SearchKernel
from vtp_core.ops.nearest_code_torch import REFERENCE
from vtp_plugins.kernels.timing import Call
from vtp_plugins.kernels.tuning.shapes import CPU_SHARE, SearchShape

OTHER_METRICS_ROWS = 512
"""Vectors for which cosine and weighted distances are compared; only ``l2`` is timed."""

CHUNK_BYTES = 2**28
"""Elements of the score matrix that matmul and argmin hold at a time."""

DISTANCE = 1e-6
"""Largest relative error of a distance."""


class SearchProblem:
    """One shape on one device.

    Attributes:
        case: What implementations decide on.
    """

    def __init__(self, shape: SearchShape, device: torch.device) -> None:
        self.shape = shape
        rows = shape.rows // CPU_SHARE if device.type == "cpu" else shape.rows
        dtype: torch.dtype = getattr(torch, shape.dtype)
        self.case = SearchCase(
            device=device.type,
            dtype=dtype,
            rows=rows,
            codes=shape.codes,
            width=shape.width,
            metric="l2",
            exact=True,
            index=device.index,
        )
        draw = torch.Generator(device).manual_seed(0)

        def drawn(count: int) -> Tensor:
            return torch.randn(count, shape.width, device=device, generator=draw).to(dtype)

        self.vectors, self.codebook = drawn(rows), drawn(shape.codes)
        self.weight = torch.rand(shape.width, device=device, dtype=torch.float64, generator=draw)

    def attributes(self) -> Mapping[str, object]:
        """What a ranking distinguishes; all metrics take about the same time."""
        return {
            "dtype": self.shape.dtype,
            "exact": True,
            "rows": self.case.rows,
            "codes": self.shape.codes,
            "width": self.shape.width,
        }

    def work(self) -> Mapping[str, float]:
        """What a search can't avoid: operations of products, bytes read."""
        flop = 2.0 * self.case.rows * self.shape.codes * self.shape.width
        return {"flop": flop, "bytes": float(self.vectors.nbytes + self.codebook.nbytes)}

    def calls(self, kernel: SearchKernel) -> Mapping[str, Call]:
        """The search; its gradients are torch's in every implementation."""
        return {"step": lambda: self._search(kernel, "l2")}

    def disagreement(self, kernel: SearchKernel) -> str | None:
        """Compares indices, which must be equal, and distances with those of the reference."""
        for metric, (right, least) in self._expected.items():
            index, distance = self._search(kernel, metric)
            if index.shape != right.shape or distance.shape != least.shape:
                return f"{metric}: shape {tuple(index.shape)} instead of {tuple(right.shape)}"
            if wrong := int((index != right).sum()):
                return f"{metric}: {wrong} of {len(right)} indices differ"
            error = ((distance.double() - least.double()).abs() / least.double()).max().item()
            if not error <= DISTANCE:
                return f"{metric}: a distance is off by {error:.1e}, allowed are {DISTANCE:.0e}"
        return None

    def yardsticks(self) -> Mapping[str, Mapping[str, Call]]:
        """Matmul and argmin in chunks, in the dtype of the inputs: not exact."""
        columns = self.codebook.T
        bias = self.codebook.square().sum(1) / -2
        chunk = max(1, CHUNK_BYTES // (self.codebook.element_size() * self.shape.codes))

        def search() -> Tensor:
            parts = self.vectors.split(chunk)
            return torch.cat([torch.addmm(bias, rows, columns).argmax(1) for rows in parts])

        return {"matmul + argmin": {"step": search}}

    @cached_property
    def _expected(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {metric: self._search(REFERENCE, metric) for metric in ("l2", "cosine", "weighted")}

    def _search(self, kernel: SearchKernel, metric: str) -> tuple[Tensor, Tensor]:
        return kernel.run(
            self.vectors if metric == "l2" else self.vectors[:OTHER_METRICS_ROWS],
            self.codebook,
            metric=metric,
            weight=self.weight if metric == "weighted" else None,
            exact=True,
        )
