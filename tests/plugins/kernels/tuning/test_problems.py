"""The shapes are those of the recipes; right implementations agree, wrong ones are named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import recipes
from vtp_core.ops import AttentionKernel, SearchKernel
from vtp_core.ops.attention_torch import TORCH_KERNELS
from vtp_core.ops.nearest_code_torch import REFERENCE
from vtp_core.plugins import load_plugins
from vtp_core.recipe import load_recipe
from vtp_plugins.kernels.tuning.attention_problem import AttentionProblem
from vtp_plugins.kernels.tuning.problem import CHOICES, build, candidates, operator_of
from vtp_plugins.kernels.tuning.search_problem import SearchProblem
from vtp_plugins.kernels.tuning.shapes import SHAPES, AttentionShape, SearchShape

CPU = torch.device("cpu")
SDPA = next(kernel for kernel in TORCH_KERNELS if kernel.name == "sdpa")
RECIPES = sorted(path.stem for path in Path(recipes.__file__).parent.glob("*.toml"))


@pytest.mark.parametrize("name", RECIPES)
def test_the_attention_of_every_shipped_recipe_is_measured(name: str) -> None:
    """Dtype, rotation, layout and head width are those of a shape, tokens within a quarter."""
    recipe: Any = load_recipe(name, plugins=load_plugins())
    measured = [build(shape, CPU).attributes() for shape in SHAPES if isinstance(shape, AttentionShape)]
    for network in (recipe.encoder, recipe.decoder):
        if network.use != "vit":
            continue
        for view in recipe.views.values():
            tokens = (view.size // (recipe.encoder.patch or 16)) ** 2  # timm: the network's own, 16 here
            packed = len(view.crops) > 1 and network is recipe.encoder
            wanted = {
                "dtype": recipe.run.precision,
                "packed": packed,
                "lse": False,
                "rope": network.rope_dtype,
                "width": network.width // network.heads,
            }
            near = [
                row
                for row in measured
                if wanted.items() <= row.items() and 0.8 < row["tokens"] / tokens < 1.25  # type: ignore[operator]
            ]
            assert near, f"{name}: no shape like {wanted} with {tokens} tokens"


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1], SHAPES[2], SHAPES[6], SHAPES[8], SHAPES[9]], ids=str)
def test_every_implementation_here_agrees_with_the_reference(shape: Any) -> None:
    problem = build(shape, CPU)
    kernels = candidates(operator_of(shape), CPU)
    assert kernels[-1].name == "reference" and len({kernel.name for kernel in kernels}) == len(kernels)
    for kernel in kernels:
        if kernel.obstacle(problem.case) is None:
            assert problem.disagreement(kernel) is None, kernel.name
    assert set(problem.attributes()) <= CHOICES[operator_of(shape)].attributes()


class _Falsified(torch.autograd.Function):
    """Leaves the values as they are and scales the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def attention(change: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]) -> AttentionKernel:
    def run(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[Tensor, Tensor | None]:
        return SDPA.run(*change(q, k, v), **options)

    return replace(SDPA, name="wrong", run=run)


SMALL = AttentionShape(dtype="float32", rope="float32", runs=((32, 9),), heads=2, width=32)
ATTENTION_MISTAKES: dict[str, tuple[AttentionKernel, str]] = {
    "keys of other rows": (attention(lambda q, k, v: (q, k.flip(-2), v)), "output is off"),
    "scale": (attention(lambda q, k, v: (q, k, v * 1.0001)), "output is off by 1.0e-04"),
    "gradient": (attention(lambda q, k, v: (q, _Falsified.apply(k, 1.01), v)), "gradient of k is off"),
    "nan": (attention(lambda q, k, v: (q, k, v * torch.nan)), "output is off by nan"),
    "norm left out": (
        replace(SDPA, run=lambda *rows, **options: SDPA.run(*rows, **options | {"q_norm": None})),
        "One of the differentiated Tensors",
    ),
    "shape": (
        replace(SDPA, run=lambda *rows, **options: (SDPA.run(*rows, **options)[0].mean(1), None)),
        "",
    ),
}


@pytest.mark.parametrize("mistake", ["keys of other rows", "scale", "gradient", "nan"])
def test_a_mistake_of_attention_is_named(mistake: str) -> None:
    kernel, message = ATTENTION_MISTAKES[mistake]
    found = AttentionProblem(SMALL, CPU).disagreement(kernel)
    assert found is not None and message in found


@pytest.mark.parametrize("mistake", ["norm left out", "shape"])
def test_an_implementation_that_breaks_the_call_raises(mistake: str) -> None:
    with pytest.raises(RuntimeError):
        AttentionProblem(SMALL, CPU).disagreement(ATTENTION_MISTAKES[mistake][0])


def search(change: Callable[[Tensor, Tensor, str], tuple[Tensor, Tensor]]) -> SearchKernel:
    def run(vectors: Tensor, codebook: Tensor, *, metric: str, **options: Any) -> tuple[Tensor, Tensor]:
        index, distance = REFERENCE.run(vectors, codebook, metric=metric, **options)
        return change(index, distance, metric)

    return replace(REFERENCE, name="wrong", run=run)


def other_first(index: Tensor, distance: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    index = index.clone()
    index[0] = (index[0] + 1) % 32
    return index, distance


SEARCH_MISTAKES: dict[str, tuple[SearchKernel, str]] = {
    "one index": (search(other_first), "l2: 1 of 64 indices differ"),
    "a distance": (search(lambda i, d, m: (i, d * (1 + 1e-5))), "l2: a distance is off by 1.0e-05"),
    "nan": (search(lambda i, d, m: (i, d * torch.nan)), "l2: a distance is off by nan"),
    "shape": (search(lambda i, d, m: (i[:-1], d[:-1])), "l2: shape (63,) instead of (64,)"),
    "one metric": (
        search(lambda i, d, m: other_first(i, d, m) if m == "weighted" else (i, d)),
        "weighted: 1 of 64 indices differ",
    ),
}


@pytest.mark.parametrize("mistake", SEARCH_MISTAKES)
def test_a_mistake_of_a_search_is_named(mistake: str) -> None:
    kernel, message = SEARCH_MISTAKES[mistake]
    problem = SearchProblem(SearchShape(dtype="float32", codes=32, width=4, rows=1024), CPU)
    assert problem.case.rows == 64
    found = problem.disagreement(kernel)
    assert found is not None and message in found


def test_the_yardstick_of_a_search_finds_about_the_nearest_codes() -> None:
    problem = SearchProblem(SearchShape(dtype="float32", codes=500, width=4, rows=2048), CPU)
    (calls,) = problem.yardsticks().values()
    index, _ = problem.calls(REFERENCE)["step"]()  # type: ignore[misc]
    assert (calls["step"]() == index).double().mean() > 0.99  # type: ignore[union-attr]
