"""Properties of every quantiser."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.vq.quantizers import CODEBOOKS, DIM, TABLES, build
from vtp_core.testing import check_bottleneck
from vtp_plugins.vq.bottleneck import VqBottleneck
from vtp_plugins.vq.config import VqConfig


def drawn(count: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", TABLES)
def test_the_bottleneck_keeps_the_rules(name: str) -> None:
    config = VqConfig(channels=DIM, quantizer=TABLES[name], sample_tokens=3, calibration_rows=4)
    check_bottleneck(VqBottleneck, config)


@pytest.mark.parametrize("name", TABLES)
@settings(max_examples=15, deadline=None)
@given(count=st.integers(0, 40), seed=st.integers(0, 9), scale=st.sampled_from([1e-6, 1.0, 1e3]))
def test_codes_and_vectors_go_round(name: str, count: int, seed: int, scale: float) -> None:
    quantizer = build(name)
    found = quantizer(drawn(count, seed, scale))
    assert found.codes.shape == (count, len(quantizer.codebook_sizes))
    for book, size in enumerate(quantizer.codebook_sizes):
        assert ((found.codes[:, book] >= 0) & (found.codes[:, book] < size)).all()
    torch.testing.assert_close(quantizer.lookup(found.codes), found.vectors.detach(), rtol=1e-6, atol=1e-6)
    assert all(value.isfinite() for value in (*found.aux.values(), *found.report.values()))
    if name in ("ibq", "fsq"):  # the largest product; a bounded channel
        return
    again = quantizer(found.vectors.detach())
    torch.testing.assert_close(quantizer.lookup(again.codes), found.vectors.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TABLES)
def test_vectors_that_are_not_finite_have_no_code(name: str) -> None:
    quantizer, x = build(name), drawn(9)
    sound = quantizer(x[[i for i in range(9) if i not in (2, 5)]])
    x[2, 1], x[5, 0] = torch.nan, torch.inf
    found = quantizer(x)
    assert (found.codes[[2, 5]] == -1).any(-1).all()
    kept = [i for i in range(9) if i not in (2, 5)]
    assert torch.equal(found.codes[kept], sound.codes)
    for key, value in sound.aux.items():
        if not name.startswith("product"):
            torch.testing.assert_close(found.aux[key], value, rtol=1e-5, atol=1e-6)
    for key, value in sound.tally.sums.items():
        if not name.startswith("product"):
            torch.testing.assert_close(found.tally.sums[key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TABLES)
def test_gradients_reach_the_vectors(name: str) -> None:
    x = drawn(12).requires_grad_()
    found = build(name)(x)
    (found.vectors * drawn(12, 1)).sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("name", CODEBOOKS)
def test_a_permuted_codebook_permutes_the_codes(name: str) -> None:
    quantizer, x = build(name), drawn(30)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    before = quantizer(x)
    with torch.no_grad():
        table = quantizer.codebook if hasattr(quantizer, "codebook") else quantizer.table
        table.copy_(table[order].clone())
    after = quantizer(x)
    assert torch.equal(order[after.codes[:, 0]], before.codes[:, 0])
    torch.testing.assert_close(after.vectors, before.vectors)


@pytest.mark.parametrize("name", CODEBOOKS)
def test_one_code_and_equal_codes(name: str) -> None:
    single = build(name, codes=1)
    assert (single(drawn(5)).codes == 0).all()
    quantizer = build(name)
    with torch.no_grad():
        table = quantizer.codebook if hasattr(quantizer, "codebook") else quantizer.table
        table.copy_(table[:1].expand_as(table).clone())
    assert (quantizer(drawn(5)).codes == 0).all()  # the lowest index of equal codes


@pytest.mark.parametrize("name", TABLES)
def test_half_precision_and_double(name: str) -> None:
    quantizer, x = build(name), drawn(20)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(x).codes, quantizer(x).codes)
        assert quantizer(x.bfloat16()).vectors.dtype == torch.float32
    assert quantizer.double()(x.double()).vectors.dtype == torch.float64


def test_tables_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="takes 10 channels, the latent has 4"):
        build("lfq", bits=10)
    with pytest.raises(ValueError, match="4 channels do not divide into 3 groups"):
        build("product", groups=3)
    with pytest.raises(ValueError, match="at most 1048576"):
        build("fsq", levels=[1024, 1024, 2])
