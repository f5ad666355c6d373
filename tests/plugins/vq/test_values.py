"""Values against the parity file, plain formulas and vector-quantize-pytorch."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
import vector_quantize_pytorch as library
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agreement import Agreement
from tests.plugins.vq.quantizers import build, config
from vtp_core.features import Tally
from vtp_plugins.vq.build import build_quantizer
from vtp_plugins.vq.ema import EmaQuantizer
from vtp_plugins.vq.ibq import IbqQuantizer
from vtp_plugins.vq.initialisation import data_rows, kmeans
from vtp_plugins.vq.meters import Meters

FILE = Path(__file__).parents[2] / "data" / "vq_math.npz"


def parity(*names: str) -> list[torch.Tensor]:
    with numpy.load(FILE) as data:
        return [torch.from_numpy(data[name]) for name in names]


@pytest.mark.agrees("EMA quantiser: codes, update", "numpy reference", 1e-6, version="fixture vq_math")
def test_a_step_of_the_moving_average(agreement: Agreement) -> None:
    x, e0, a0, n0, e1, a1, n1, index = parity(
        "ema_x", "ema_e0", "ema_a0", "ema_n0", "ema_e1", "ema_a1", "ema_n1", "ema_idx"
    )
    quantizer = build_quantizer(config("ema", codes=32, decay=0.9, revive=False), 16).double()
    assert isinstance(quantizer, EmaQuantizer)
    quantizer.codebook.copy_(e0), quantizer.sums.copy_(a0), quantizer.sizes.copy_(n0)
    found = quantizer(x)
    agreement(found.codes[:, 0], index)
    torch.testing.assert_close(found.vectors, e0[index], rtol=0, atol=1e-12)  # before the update
    quantizer.after_step(found.tally, 0)
    torch.testing.assert_close(quantizer.sizes, n1, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(quantizer.sums, a1, rtol=1e-9, atol=1e-9)
    agreement(quantizer.codebook, e1)


@pytest.mark.agrees(
    "nearest codes: offset, cosine, weighted", "numpy reference", 0, version="fixture vq_math"
)
def test_offsets_and_cosine(agreement: Agreement) -> None:
    x, e, expected = parity("off_x", "off_e", "off_idx")
    quantizer = build_quantizer(config("ema", codes=257), 65)
    assert isinstance(quantizer, EmaQuantizer)
    quantizer.codebook.copy_(e)
    agreement(quantizer(x).codes[:, 0], expected)
    x, e, expected = parity("nn_x", "nn_e", "nn_idx_cos")
    cosine = build_quantizer(config("cosine", codes=257), 65)
    assert isinstance(cosine, EmaQuantizer)
    cosine.set_codebook(e)
    agreement(cosine(x).codes[:, 0], expected)
    x, e, w, expected = parity("nn_x", "nn_e", "nn_w", "nn_idx_wl2")
    weighted = EmaQuantizer(config("ema", codes=257), 65, metric_weight=w)
    weighted.codebook.copy_(e)
    agreement(weighted(x).codes[:, 0], expected)


@pytest.mark.agrees(
    "finite scalar quantiser: codes, values", "numpy reference", 1e-9, version="fixture vq_math"
)
@pytest.mark.agrees("lookup-free quantiser: codes", "numpy reference", 0, version="fixture vq_math")
def test_finite_scalar_and_lookup_free(agreement: Agreement) -> None:
    z, codes, index = parity("fsq_z", "fsq_codes", "fsq_idx")
    fsq = build_quantizer(config("fsq", levels=[8, 5, 5, 5]), 4).double()
    found = fsq(z)
    for ours, theirs in ((found.codes[:, 0], index), (found.vectors, codes)):
        agreement(ours, theirs, "finite scalar quantiser: codes, values")
    z, index = parity("lfq_z", "lfq_idx")
    found = build_quantizer(config("lfq", bits=8), 8)(z)
    agreement(found.codes[:, 0], index, "lookup-free quantiser: codes")


@pytest.mark.agrees("EMA quantiser: codes, vectors, loss, update", "vector-quantize-pytorch", 1e-5)
def test_one_step_is_the_librarys(agreement: Agreement) -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 4)
    ours = build("ema", decay=0.8, revive=False, commitment=1.0)
    assert isinstance(ours, EmaQuantizer)
    theirs = library.VectorQuantize(4, 16, decay=0.8, rotation_trick=False, threshold_ema_dead_code=0)
    book = theirs._codebook
    (
        ours.codebook.copy_(book.embed[0]),
        ours.sums.copy_(book.embed_avg[0]),
        ours.sizes.copy_(book.cluster_size[0]),
    )
    vectors, index, loss = theirs.train()(x[None])
    found = ours(x)
    ours.after_step(found.tally, 0)
    agreement(found.codes[:, 0], index[0])
    agreement(found.vectors, vectors[0])
    agreement(found.aux["commitment"], loss.squeeze())
    agreement(ours.codebook, book.embed[0])


def test_index_backpropagation_is_that_of_the_whole_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    quantizer = build("ibq", entropy=0.3, temperature=0.7).double()
    assert isinstance(quantizer, IbqQuantizer)
    x, target = torch.randn(11, 4, dtype=torch.float64), torch.randn(11, 4, dtype=torch.float64)
    monkeypatch.setattr("vtp_plugins.vq.ibq.TILE", 3 * 16)
    quantizer.mean.copy_(torch.rand(16, dtype=torch.float64).softmax(0))

    def ours(x: torch.Tensor) -> torch.Tensor:
        found = quantizer(x)
        return (found.vectors - target).square().sum() + sum(found.aux.values())

    def plain(x: torch.Tensor) -> torch.Tensor:
        table, scores = quantizer.table, x @ quantizer.table.T
        p = scores.softmax(-1)
        hard = torch.nn.functional.one_hot(scores.argmax(-1), 16).to(p.dtype)
        vectors = (hard + p - p.detach()) @ table
        picked = table[scores.argmax(-1)]
        q = (scores / 0.7).softmax(-1)
        entropy = (q * (quantizer.mean.log() - q.log())).sum(-1).mean()
        losses = (x.detach() - picked).square().mean() + 0.25 * (x - picked.detach()).square().mean()
        return (vectors - target).square().sum() + losses + 0.3 * entropy

    grads = []
    for loss in (ours, plain):
        leaf = x.clone().requires_grad_()
        quantizer.zero_grad()
        value = loss(leaf)
        value.backward()
        grads.append((value.detach(), leaf.grad, quantizer.table.grad.clone()))
    for left, right in zip(*grads, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 50), scale=st.sampled_from([1e-6, 1.0, 1e4]), huge=st.booleans())
@settings(max_examples=15, deadline=None)
def test_index_backpropagation_takes_the_largest_product(seed: int, scale: float, huge: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    codebook = torch.randn(9, 4, generator=draw)
    codebook[3] *= 1e3 if huge else 0
    codebook[7] = codebook[2]  # the first of equal ones
    x = scale * torch.randn(30, 4, generator=draw)
    x[5], x[6] = 0, x[4] * 1e-20
    quantizer = build("ibq", codes=9)
    with torch.no_grad():
        quantizer.table.copy_(codebook)
    expected = (x.double() @ codebook.double().T).argmax(-1)
    assert torch.equal(quantizer(x).codes[:, 0], expected)


def test_kmeans_finds_separate_clusters() -> None:
    torch.manual_seed(0)
    centers = 10 * torch.randn(12, 3)
    x = (centers[:, None] + 0.01 * torch.randn(12, 40, 3)).flatten(0, 1)
    found = kmeans(x[torch.randperm(len(x))], 12)
    assert torch.cdist(centers, found).min(1).values.max() < 0.05
    assert torch.equal(kmeans(x, 12), kmeans(x, 12))


@pytest.mark.parametrize("make", [kmeans, data_rows])
def test_more_codes_than_data_constant_data_and_bad_rows(make) -> None:  # type: ignore[no-untyped-def]
    x = torch.randn(5, 3)
    assert make(x, 20).shape == (20, 3)
    constant = make(torch.ones(9, 3), 4)
    torch.testing.assert_close(constant, torch.ones(4, 3))
    x[1, 1] = torch.nan
    assert make(x, 20).isfinite().all()
    with pytest.raises(ValueError, match="no vector of the data is finite"):
        make(torch.full((3, 3), torch.nan), 2)


def test_dead_codes_take_vectors_and_begin_again() -> None:
    torch.manual_seed(0)
    quantizer = build("ema", revive_every=1, decay=0.5)
    assert isinstance(quantizer, EmaQuantizer)
    quantizer.set_codebook(torch.cat([torch.zeros(1, 4), 100 + torch.randn(15, 4)]))
    x = torch.randn(60, 4)
    used = []
    for index in range(12):
        found = quantizer(x)
        rows = {"vectors": found.tally.rows["vectors"].unflatten(0, (6, 10))}
        quantizer.after_step(Tally(sums=found.tally.sums, rows=rows), index)
        used.append(len(found.codes.unique()))
    assert used[0] == 1
    assert used[-1] >= 14
    torch.testing.assert_close(
        quantizer.sums / quantizer.sizes[:, None], quantizer.codebook, rtol=0.05, atol=0.05
    )


def test_meters_against_plain_counts() -> None:
    meters = Meters(8, window=4, alarm=0)
    history = torch.randint(0, 5, (6, 8), generator=torch.Generator().manual_seed(0)).float()
    history[:, 3] = 0
    history[:2, 5], history[2:, 5] = 3, 0
    for index, counts in enumerate(history):
        meters.update(counts, index)
    decayed = sum(counts * 0.75 ** (5 - i) for i, counts in enumerate(history))
    p = decayed / decayed.sum()
    report = meters.report()
    assert report["usage"].item() == pytest.approx((history[-4:].sum(0) > 0).float().mean().item())
    assert report["perplexity"].item() == pytest.approx(torch.exp(-torch.xlogy(p, p).sum()).item(), rel=1e-5)
    assert report["entropy"].item() == pytest.approx(-torch.xlogy(p, p).sum().item() / numpy.log(2), rel=1e-5)
    assert meters.age[3].item() == 6


def test_a_collapse_names_the_group_of_a_product(caplog: pytest.LogCaptureFixture) -> None:
    quantizer = build("product", each={"kind": "ema", "codes": 64, "window": 2, "revive": False})
    used = torch.ones(64)
    alone = torch.zeros(64)
    alone[5] = 3
    for index in range(3):
        sums = {"0.counts": used, "1.counts": alone}
        sums |= {f"{group}.sums": torch.zeros(64, 2) for group in (0, 1)}
        quantizer.after_step(Tally(sums=sums), index)
    assert [record.message.split(":")[0] for record in caplog.records] == ["codebook 1"]


def test_a_collapse_is_one_warning_a_window(caplog: pytest.LogCaptureFixture) -> None:
    meters = Meters(100, window=10, alarm=0.1)
    counts = torch.zeros(100)
    counts[0] = 5
    for index in range(31):
        meters.update(counts, index)
    assert [record.message[:40] for record in caplog.records] == [
        "codebook: 1.0 % of 100 codes were used i"
    ] * 3
