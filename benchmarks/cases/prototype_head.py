"""Loss over many prototypes: the streamed cross-entropy of `dino` and `mim` against head and log-softmax.

Times loss and both gradients for unit vectors of students and teachers, targets included. In bfloat16 the
products are bfloat16 on both sides (autocast), sums and softmax float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vtp_plugins.bench.case import BenchCase
from vtp_plugins.bench.config import BenchOptions
from vtp_plugins.dino.loss import streamed_cross_entropy
from vtp_plugins.dino.sinkhorn import Assignment, sinkhorn

SHAPES = ("softmax:64x5000", "sinkhorn:64x5000", "softmax:1024x65536", "sinkhorn:1024x65536")
FORMAT = "softmax|sinkhorn:ROWSxPROTOTYPES"

WIDTH = 256
STUDENT, TEACHER = 0.1, 0.05
CLOSE = {"float32": 1e-5, "bfloat16": 3e-2}
"""Relative error of the gradients, of their norms, that is allowed against float32."""

Found = tuple[Tensor, Tensor, Tensor]


def build(shape: str, options: BenchOptions) -> BenchCase:
    """Random unit vectors and prototypes of unit length."""
    kind, _, sizes = shape.partition(":")
    if kind not in ("softmax", "sinkhorn"):
        raise ValueError(f"no targets {kind!r}")
    rows, prototypes = (int(part) for part in sizes.split("x"))
    draw = torch.Generator().manual_seed(0)
    student, teacher, own, other = (
        F.normalize(torch.randn(count, WIDTH, generator=draw), dim=-1)
        for count in (rows, rows, prototypes, prototypes)
    )
    dtype = torch.float32 if options.precision == "float32" else torch.bfloat16
    doubly = kind == "sinkhorn"

    def streamed() -> Found:
        leaves = student.clone().requires_grad_(), own.clone().requires_grad_()
        narrow, found = other.to(dtype), Assignment(offset=torch.zeros(prototypes), normalizer=None)
        if doubly:
            found = sinkhorn(teacher, narrow, TEACHER, dtype=dtype)
        total, _, _ = streamed_cross_entropy(
            leaves[0][:, None],
            leaves[1],
            teacher[:, None],
            narrow,
            offset=found.offset,
            normalizer=None if found.normalizer is None else found.normalizer[:, None],
            mixture=torch.ones(1, 1),
            weights=torch.full((rows, 1), 1 / rows),
            temperatures=(STUDENT, TEACHER),
            dtype=dtype,
        )
        del narrow  # as in a step, where the loss has returned by then
        rows_slope, prototypes_slope = torch.autograd.grad(total, leaves)
        return total.detach(), rows_slope, prototypes_slope

    def plain(narrow: bool) -> Found:
        leaves = student.clone().requires_grad_(), own.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            with torch.no_grad():
                scores = F.linear(teacher, other).float() / TEACHER
            mine = F.linear(*leaves).float() / STUDENT
        target = _sinkhorn(scores) if doubly else scores.softmax(-1)
        total = -(target * mine.log_softmax(-1)).sum(-1).mean()
        rows_slope, prototypes_slope = torch.autograd.grad(total, leaves)
        return total.detach(), rows_slope, prototypes_slope

    variants = {"head, log_softmax, float32": lambda: plain(False)}
    if options.precision == "bfloat16":
        variants["head, log_softmax"] = lambda: plain(True)
    variants["streamed"] = streamed

    def check(found: object, expected: object) -> str | None:
        return _difference(found, expected, CLOSE[options.precision])

    return BenchCase(
        name="prototype_head",
        question="What do time and memory of the loss over prototypes gain by not keeping the scores?",
        shape=shape,
        rows=rows,
        unit="rows",
        variants=variants,
        check=check,
        flop=8.0 * rows * prototypes * WIDTH,
        peak=options.precision,
    )


def _sinkhorn(scores: Tensor) -> Tensor:
    """Three iterations in place, as DINOv2 writes them."""
    plan = scores.exp_().T
    plan /= plan.sum()
    prototypes, rows = plan.shape
    for _ in range(3):
        plan /= plan.sum(1, keepdim=True)
        plan /= prototypes
        plan /= plan.sum(0, keepdim=True)
        plan /= rows
    plan *= rows
    return plan.T


def _difference(found: object, expected: object, limit: float) -> str | None:
    assert isinstance(found, tuple) and isinstance(expected, tuple)
    for name, value, right in zip(
        ("loss", "rows' gradient", "prototypes' gradient"), found, expected, strict=True
    ):
        error = ((value - right).norm() / right.norm()).item()
        if not error <= limit:
            return f"{name} is {error:.1e} off"
    return None
