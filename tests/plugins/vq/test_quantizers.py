"""Properties of every quantiser."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.vq.quantizers import CODEBOOKS, DIM, NAMES, TABLES, build, table_of
from vtp_core.testing import check_bottleneck
from vtp_plugins.vq.bottleneck import VqBottleneck
from vtp_plugins.vq.config import VqConfig

FEW = settings(max_examples=10, deadline=None)
COUNTS, SEEDS, SCALES = st.integers(0, 40), st.integers(0, 9), st.sampled_from([1e-6, 1.0, 1e3])
ALL = torch.arange(16)[:, None]


def drawn(count: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", TABLES)
def test_the_bottleneck_keeps_the_rules(name: str) -> None:
    config = VqConfig(channels=DIM, quantizer=TABLES[name], sample_tokens=3, calibration_rows=4)
    check_bottleneck(VqBottleneck, config)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(count=COUNTS, seed=SEEDS, scale=SCALES)
def test_codes_and_vectors_go_round(name: str, count: int, seed: int, scale: float) -> None:
    quantizer = build(name)
    found = quantizer(drawn(count, seed, scale))
    assert found.codes.shape == (count, len(quantizer.codebook_sizes))
    for book, size in enumerate(quantizer.codebook_sizes):
        assert ((found.codes[:, book] >= 0) & (found.codes[:, book] < size)).all()
    torch.testing.assert_close(quantizer.lookup(found.codes), found.vectors.detach(), rtol=1e-6, atol=1e-6)
    assert all(value.isfinite() for value in (*found.aux.values(), *found.report.values()))
    if name in ("ibq", "fsq") or "residual" in name:  # the largest product; a bounded channel; a sum
        return
    again = quantizer(found.vectors.detach())
    torch.testing.assert_close(quantizer.lookup(again.codes), found.vectors.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(count=st.integers(1, 12), seed=SEEDS, bad=st.sampled_from([torch.nan, torch.inf, -torch.inf]))
def test_vectors_that_are_not_finite_have_no_code(name: str, count: int, seed: int, bad: float) -> None:
    quantizer, x = build(name), drawn(count + 2, seed)
    places = torch.randperm(count + 2, generator=torch.Generator().manual_seed(seed))
    spoilt, kept = places[:2], places[2:].sort().values
    sound = quantizer(x[kept])
    x[spoilt[0], seed % DIM], x[spoilt[1], 0] = bad, torch.nan
    found = quantizer(x)
    assert (found.codes[spoilt] == -1).any(-1).all()
    assert torch.equal(found.codes[kept], sound.codes)
    if name.startswith("product"):  # the other group may be sound
        return
    for key, value in sound.aux.items():
        torch.testing.assert_close(found.aux[key], value, rtol=1e-5, atol=1e-6)
    for key, value in sound.tally.sums.items():
        torch.testing.assert_close(found.tally.sums[key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(count=st.integers(1, 12), seed=SEEDS)
def test_gradients_reach_the_vectors_and_what_learns(name: str, count: int, seed: int) -> None:
    quantizer, x = build(name), drawn(count, seed).requires_grad_()
    found = quantizer(x)
    (found.vectors * drawn(count, seed + 100)).sum().backward(retain_graph=True)
    assert x.grad is not None and (x.grad.abs().sum(-1) > 0).all()
    parameters = dict(quantizer.named_parameters())
    moved = {key for key, value in parameters.items() if value.grad is not None and value.grad.any()}
    assert moved == ({"table"} if name == "ibq" else set())  # straight through, past the codebook
    if parameters:
        torch.stack(list(found.aux.values())).sum().backward()
        assert all(value.grad is not None and value.grad.any() for value in parameters.values())


@pytest.mark.parametrize("name", CODEBOOKS)
@FEW
@given(count=COUNTS, seed=SEEDS, scale=SCALES)
def test_a_permuted_codebook_permutes_the_codes(name: str, count: int, seed: int, scale: float) -> None:
    quantizer, x = build(name), drawn(count, seed, scale)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(seed))
    before = quantizer(x)
    with torch.no_grad():
        table_of(quantizer).copy_(table_of(quantizer)[order].clone())
    after = quantizer(x)
    assert torch.equal(order[after.codes[:, 0]], before.codes[:, 0])
    torch.testing.assert_close(after.vectors, before.vectors)


@pytest.mark.parametrize("name", CODEBOOKS)
@FEW
@given(
    count=COUNTS, seed=SEEDS, pairs=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=8)
)
def test_of_equal_codes_the_first_is_taken(
    name: str, count: int, seed: int, pairs: list[tuple[int, int]]
) -> None:
    quantizer, x = build(name), drawn(count, seed)
    with torch.no_grad():
        table = table_of(quantizer)
        for source, copy in pairs:
            table[copy] = table[source]
    codes = quantizer(x).codes[:, 0]
    alike = (quantizer.lookup(ALL)[codes][:, None] == quantizer.lookup(ALL)).all(-1)
    assert torch.equal(alike.int().argmax(1), codes)


@pytest.mark.parametrize("name", CODEBOOKS)
@FEW
@given(count=COUNTS, seed=SEEDS, scale=SCALES)
def test_one_code_takes_all(name: str, count: int, seed: int, scale: float) -> None:
    quantizer = build(name, codes=1)
    found = quantizer(drawn(count, seed, scale))
    assert found.codes.shape == (count, 1) and (found.codes == 0).all()
    assert all(value.isfinite() for value in (*found.aux.values(), *found.report.values()))


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_and_double(name: str) -> None:
    quantizer, x = build(name), drawn(20)
    with torch.autocast("cpu", torch.bfloat16):
        found = quantizer(x)
        assert torch.equal(found.codes, quantizer(x).codes)
        assert quantizer(x.bfloat16()).vectors.dtype == torch.float32
        known = quantizer.lookup(found.codes)
    assert torch.equal(known, quantizer.lookup(found.codes)) and known.dtype == torch.float32
    assert quantizer.double()(x.double()).vectors.dtype == torch.float64


def test_tables_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="takes 10 channels, the latent has 4"):
        build("lfq", bits=10)
    with pytest.raises(ValueError, match="4 channels do not divide into 3 groups"):
        build("product", groups=3)
    with pytest.raises(ValueError, match="at most 1048576"):
        build("fsq", levels=[1024, 1024, 2])
