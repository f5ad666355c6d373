"""The search kernels in the interpreter; `test_interpreted` runs this file in a process of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import triton
from torch import Tensor

from tests.core.ops.nearest_code_oracle import DATA, all_distances, drawn, nearest, squares_out_of_range
from vtp_core.ops import SearchChoice, SearchKernel, nearest_code
from vtp_plugins.kernels.triton import search_operator
from vtp_plugins.kernels.triton.configuration import LANES, ScreenTiles, screen_tiles
from vtp_plugins.kernels.triton.search import FLOAT32_KERNEL, KERNEL, TF32_KERNEL

assert triton.knobs.runtime.interpret, "needs TRITON_INTERPRET=1 in the environment"

# The interpreter computes in numpy, which warns where IEEE arithmetic gives NaN.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

METRICS = ("l2", "weighted", "cosine")
SCREENS = [replace(kernel, device=None) for kernel in (KERNEL, TF32_KERNEL, FLOAT32_KERNEL)]


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's time goes with the number of programs."""
    monkeypatch.setattr(search_operator, "FRAME_ROWS", 128)
    monkeypatch.setattr(search_operator, "SETTLE_ROWS", 32)


def check(
    kernel: SearchKernel, vectors: Tensor, codebook: Tensor, metric: Any = "l2", weight: Tensor | None = None
) -> None:
    if metric == "weighted" and weight is None:
        weight = torch.rand(vectors.shape[1], dtype=torch.float64) * (torch.rand(vectors.shape[1]) < 0.8)
    expected, least = nearest(all_distances(vectors, codebook, metric, weight))
    index, distance = nearest_code(
        vectors, codebook, metric=metric, weight=weight, implementation=SearchChoice((kernel,))
    )
    np.testing.assert_array_equal(index.numpy(), expected)
    wide = torch.promote_types(vectors.dtype, torch.float32)
    np.testing.assert_array_equal(distance.numpy(), torch.from_numpy(least).to(wide).numpy())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kernel", SCREENS, ids=lambda kernel: kernel.name)
def test_every_screen_equals_the_definition(kernel: SearchKernel, metric: str) -> None:
    check(kernel, *drawn("normal", 30, 200, 20, torch.float32), metric)


@pytest.mark.parametrize("kind", DATA)
def test_data_that_is_hard_to_search(kind: str) -> None:
    metric = METRICS[DATA.index(kind) % 3]
    check(SCREENS[0], *drawn(kind, 10, 140, 5, torch.float32), metric)


@pytest.mark.parametrize("name", squares_out_of_range())
def test_squares_out_of_range(name: str) -> None:
    x, c, weight = squares_out_of_range()[name]
    check(SCREENS[0], x, c, "l2" if weight is None else "weighted", weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_other_dtypes(dtype: torch.dtype, metric: str) -> None:
    kind = "extreme" if dtype == torch.float64 else "normal"
    check(SCREENS[0], *drawn(kind, 9, 130, 12, dtype), metric)


@pytest.mark.parametrize(("rows", "codes", "width"), [(1, 1, 1), (3, 1, 70), (130, 3, 2), (5, 300, 150)])
def test_shapes(rows: int, codes: int, width: int) -> None:
    check(SCREENS[0], *drawn("normal", rows, codes, width, torch.float32))


def test_strides() -> None:
    vectors, codebook = drawn("normal", 11, 140, 6, torch.float32)
    check(SCREENS[0], vectors.T.contiguous().T, codebook.repeat(1, 2)[::2, 3:9])


@pytest.mark.parametrize("architecture", [80, 90])
def test_shares_of_the_codes(monkeypatch: pytest.MonkeyPatch, architecture: Any) -> None:
    """Few rows and many processors: the codes are cut into shares, the last one short."""
    monkeypatch.setattr(search_operator, "_processors", lambda x: 4)
    monkeypatch.setattr(search_operator, "nearest_architecture", lambda capability: architecture)
    for kernel in SCREENS[:2]:
        check(kernel, *drawn("pairs", 12, 700, 4, torch.float32))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["normal", "offset", "extreme", "one huge"])
def test_screen_bounds_hold(kind: str, metric: str) -> None:
    """No score of a block is further from the true one than the block's bound; the truth is in float64."""
    x, c = drawn(kind, 40, 150, 12, torch.float32)
    weight = torch.rand(12, dtype=torch.float64) if metric == "weighted" else None
    frame = search_operator._frame(c, metric, weight)
    tiles = screen_tiles(80, "bfloat16", 12)
    rows, codes = (
        search_operator._side(y, frame, torch.bfloat16, tiles, "bfloat16", codes=y is c) for y in (x, c)
    )
    exact = _scores(x, c, frame)
    found = rows.operand.double() @ codes.operand.double().T + codes.bias.double()
    blocks = search_operator._of_blocks(codes.bounds, tiles.codes).double()
    of_rows = rows.bounds.double()[:, :, None]
    bound = of_rows[0] + of_rows[1] * blocks[0] + of_rows[2] * blocks[1] + blocks[2]
    bound = bound.repeat_interleave(tiles.codes, 1)[: len(x), : len(c)]
    assert ((found[: len(x), : len(c)] - exact).abs() <= bound).all()
    # A bound that is far too wide would be right and of no use.
    if kind == "normal":
        assert (bound < 0.1 * exact.abs().amax()).all()


def _scores(x: Tensor, c: Tensor, frame: Any) -> Tensor:
    """(N, K) float64: x'.c' + b(c)."""
    x, c = x.double(), c.double()
    if frame.metric == "cosine":
        x, c = (y / y.norm(dim=1, keepdim=True) for y in (x, c))
    moved, codes = (x - frame.centre) * frame.scale, (c - frame.centre) * frame.scale
    bias = codes @ frame.centre if frame.metric == "cosine" else -0.5 * codes.square().sum(1)
    return moved @ codes.T + bias


def test_most_rows_of_ordinary_data_need_no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep is replaced by one that notes how many rows it was left."""
    left: list[int] = []

    class Sweep:
        def __getitem__(self, grid: tuple[int]) -> Any:
            return lambda *arguments, **_: left.append(int(arguments[13]))

    monkeypatch.setattr(search_operator, "search_sweep", Sweep())
    x, c = drawn("normal", 60, 256, 16, torch.float32)
    expected, _ = nearest(all_distances(x, c, "l2", None))
    frame = search_operator._frame(c, "l2", None)
    index, _ = search_operator._search(x, c, frame, "bfloat16", 80, 1)
    assert left[0] < 12
    assert (index.numpy() == expected).sum() >= 60 - left[0]


def test_settings_divide_evenly() -> None:
    for width in (1, 16, 17, 4096):
        for tiles in (screen_tiles(90, "bfloat16", width), screen_tiles(80, "tf32x3", width)):
            assert isinstance(tiles, ScreenTiles)
            assert tiles.codes % LANES == 0
