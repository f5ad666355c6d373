"""What executes the CUDA kernels in tests finds the faults that it is there for, and computes as GPUs do."""

from __future__ import annotations

import pytest
import torch

from tests.plugins.kernels.cuda.shim import Shim, ShimError

SEEDS = range(8)


def numbers() -> torch.Tensor:
    return torch.randn(512)


@pytest.mark.parametrize("seed", SEEDS)
def test_right_kernels_are_right_in_every_order(shim: Shim, seed: int) -> None:
    x = numbers()
    torch.testing.assert_close(shim.fault("reverse", x, seed), x[:256].flip(0), rtol=0, atol=0)
    torch.testing.assert_close(shim.fault("stream", x, seed)[:128], x.view(4, 128).sum(0))


@pytest.mark.parametrize(
    "name", ["reverse without barrier", "stream without wait", "stream that refills early"]
)
def test_a_missing_barrier_or_wait_shows(shim: Shim, name: str) -> None:
    x = numbers()
    right = x[:256].flip(0) if "reverse" in name else x.view(4, 128).sum(0)
    wrong = 0
    for seed in SEEDS:
        try:
            found = shim.fault(name, x, seed)[: len(right)]
        except ShimError:
            wrong += 1
        else:
            wrong += not torch.allclose(found, right)
    assert wrong >= len(SEEDS) // 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("read beyond", r"read_beyond block \(0,0,0\) thread .*: access out of bounds"),
        ("write before", "access out of bounds"),
        ("beyond shared", "access out of bounds"),
        ("half a barrier", "__syncthreads after some threads have ended|deadlock"),
        ("lanes apart", "lanes of one warp meet in"),
        ("never waits", "cp.async copies that were never waited for"),
        ("crooked copy", "misaligned source"),
    ],
)
def test_a_fault_ends_the_launch_with_its_place(shim: Shim, name: str, message: str) -> None:
    with pytest.raises(ShimError, match=message):
        shim.fault(name, numbers())
    x = numbers()  # and the next launch works
    torch.testing.assert_close(shim.fault("reverse", x), x[:256].flip(0), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_conversions_are_those_of_torch(shim: Shim, dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).float()
    between = (every[:-1].double() + every[1:].double()).mul(0.5).float()  # ties, for one
    drawn = torch.randint(-(2**31), 2**31, (50_000,), dtype=torch.int32).view(torch.float32)
    x = torch.cat((every, between, drawn))
    bits, back, tf32 = shim.convert(x, dtype)
    right = x.to(dtype)
    number = ~x.isnan()
    assert bits[number].equal(right.view(torch.int16)[number])
    assert back[number].equal(right.float()[number])
    assert back[~number].isnan().all()
    rounded = tf32.view(torch.float32)
    assert ((tf32 & 0x1FFF) == 0)[x.isfinite()].all()
    inside = x.abs().gt(1e-37) & x.abs().lt(1e38)
    assert ((rounded - x).abs() <= x.abs() * 2.0**-11)[inside].all()


@pytest.mark.parametrize(("dtype", "depth"), [(torch.float16, 16), (torch.bfloat16, 16), (torch.float32, 8)])
def test_a_tensor_core_product(shim: Shim, dtype: torch.dtype, depth: int) -> None:
    a, b, c = (torch.randn(*shape) for shape in ((16, depth), (8, depth), (16, 8)))
    a, b = ((x * 4).round() / 4 for x in (a, b))  # so that every product and sum is exact
    c = (c * 16).round() / 16
    assert shim.product(a, b, c, dtype).equal(c + a @ b.T)


def test_tensor_cores_cut_what_hangs_below_the_largest_addend(shim: Shim) -> None:
    a, b, c = torch.zeros(16, 16), torch.zeros(8, 16), torch.zeros(16, 8)
    c[0, 0], a[0, :8], b[0, :8] = (
        1.0,
        2.0**-12,
        0.75 * 2.0**-12,
    )  # each product is 0.75 ulp of 1 less than half
    exact = (c + a @ b.T)[0, 0].item()
    found = shim.product(a, b, c, torch.bfloat16)[0, 0].item()
    assert found == 1.0 < exact
