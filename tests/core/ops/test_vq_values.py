"""Search, statistics and rotation against values of another program in float64 (`tests/data/vq_math.npz`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.agreement import Agreement
from tests.core.ops.nearest_code_oracle import KERNELS
from vtp_core.ops import SearchChoice, SearchKernel, code_statistics, nearest_code, rotation_trick

each_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)


@pytest.fixture(scope="module")
def values() -> dict[str, Tensor]:
    with np.load(Path(__file__).parents[2] / "data" / "vq_math.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored}


@pytest.mark.agrees(
    "operator nearest_code: codes of all kernels", "numpy reference", 0, version="fixture vq_math"
)
@pytest.mark.agrees(
    "operator nearest_code: distances", "numpy reference", 1e-6, version="fixture vq_math", relative=True
)
@each_kernel
def test_nearest_codes_with_equal_codes_among_them(
    kernel: SearchKernel, values: dict[str, Tensor], agreement: Agreement
) -> None:
    x, codebook, weight = values["nn_x"], values["nn_e"], values["nn_w"]
    choice = SearchChoice((kernel,))
    index, distance = nearest_code(x, codebook, implementation=choice)
    codes, distances = "operator nearest_code: codes of all kernels", "operator nearest_code: distances"
    agreement(index, values["nn_idx_l2"], codes)
    agreement(distance, values["nn_d2_l2"], distances)
    index, distance = nearest_code(x, codebook, metric="weighted", weight=weight, implementation=choice)
    agreement(index, values["nn_idx_wl2"], codes)
    agreement(distance, values["nn_d2_wl2"], distances)
    index, _ = nearest_code(x, codebook, metric="cosine", implementation=choice)
    agreement(index, values["nn_idx_cos"], codes)


@each_kernel
def test_a_common_offset_costs_no_code(kernel: SearchKernel, values: dict[str, Tensor]) -> None:
    index, _ = nearest_code(values["off_x"], values["off_e"], implementation=SearchChoice((kernel,)))
    assert torch.equal(index, values["off_idx"])


def test_statistics_make_one_step_of_a_moving_average(values: dict[str, Tensor]) -> None:
    x, before = values["ema_x"], values["ema_e0"]
    index, _ = nearest_code(x, before)
    assert torch.equal(index, values["ema_idx"])
    counts, sums = code_statistics(x, index, len(before))
    torch.testing.assert_close(0.9 * values["ema_n0"] + 0.1 * counts, values["ema_n1"], rtol=1e-12, atol=0)
    torch.testing.assert_close(0.9 * values["ema_a0"] + 0.1 * sums, values["ema_a1"], rtol=1e-11, atol=1e-12)


def test_rotation(values: dict[str, Tensor]) -> None:
    source = values["rot_src"].requires_grad_()
    [found] = torch.autograd.grad(rotation_trick(source, values["rot_tgt"]), source, values["rot_g"])
    torch.testing.assert_close(found, values["rot_grad"])
