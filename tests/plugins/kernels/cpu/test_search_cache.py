"""The cache of packed codebooks: never stale, bounded, gone with its codebook."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from torch import Tensor

from vtp_plugins.kernels.cpu.search import KERNEL
from vtp_plugins.kernels.native.loading import why_missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_missing("_C_cpu") is not None, reason=f"_C_cpu {why_missing('_C_cpu')}"),
]

ENTRIES = 8


@pytest.fixture(autouse=True)
def _empty() -> None:
    """Starts without entries of earlier tests."""
    gc.collect()
    torch.ops.vtp_cpu.forget_codebook(0, 2**63 - 1)
    assert entries() == 0
    torch.manual_seed(0)


def entries() -> int:
    return int(torch.ops.vtp_cpu.packed_codebooks()[0])


def search(x: Tensor, c: Tensor, metric: str = "l2", weight: Tensor | None = None) -> Tensor:
    return KERNEL.run(x, c, metric=metric, weight=weight, exact=True)[0]


def nearest(x: Tensor, c: Tensor) -> Tensor:
    return (x.double()[:, None] - c.double()).square().sum(-1).argmin(1)


def check(x: Tensor, c: Tensor) -> None:
    assert torch.equal(search(x, c), nearest(x, c))


def test_a_change_that_torch_does_not_count_is_seen() -> None:
    x, c = torch.randn(50, 7), torch.randn(300, 7)
    check(x, c)
    version = c._version
    c.data.copy_(torch.randn(300, 7))
    assert c._version == version
    check(x, c)
    c.numpy()[17] = x[3].numpy()
    check(x, c)
    assert int(search(x, c)[3]) == 17
    assert entries() == 1  # the memory of its last state is used again


def test_one_bit_anywhere_is_seen() -> None:
    c = torch.randn(257, 33)
    for place in (0, 1, 33 * 100 + 7, 257 * 33 - 1):
        row, column = divmod(place, 33)
        x = c[row : row + 1].clone()
        search(x, c)
        c.view(torch.int32)[row, column] ^= 1
        distance = KERNEL.run(x, c, metric="l2", weight=None, exact=True)[1]
        assert float(distance) > 0


def test_rows_that_change_places_are_seen() -> None:
    x, c = torch.randn(40, 16), torch.randn(512, 16)
    before = search(x, c)
    c.copy_(c.flip(0).clone())
    assert torch.equal(search(x, c), 511 - before)


def test_inference_mode() -> None:
    with torch.inference_mode():
        x, c = torch.randn(30, 9), torch.randn(200, 9)
        check(x, c)
        c.mul_(-1)
        check(x, c)


def test_freed_and_reallocated_storage() -> None:
    x = torch.randn(20, 12)
    addresses = set()
    for _ in range(20):
        c = torch.randn(150, 12)
        addresses.add(c.data_ptr())
        check(x, c)
        del c
    assert len(addresses) < 20, "the allocator used no address twice: this test shows nothing"
    assert entries() == 0


def test_what_is_packed_goes_with_the_storage_not_with_a_view() -> None:
    x, books = torch.randn(20, 6), torch.randn(3, 100, 6)
    for part in range(3):
        check(x, books[part])
        check(x, books[part].detach())
    assert entries() == 3
    view = books[1]
    del books
    gc.collect()
    assert entries() == 3
    del view
    gc.collect()
    assert entries() == 0
    assert torch.ops.vtp_cpu.packed_codebooks()[1] == 0


def test_metrics_weights_and_types_have_entries_of_their_own() -> None:
    x, c = torch.randn(60, 5), torch.randn(90, 5)
    heavy, light = torch.tensor([9.0, 1, 1, 1, 1]).double(), torch.tensor([0, 1.0, 1, 1, 1]).double()
    for _ in range(2):
        check(x, c)
        for weight in (heavy, light):
            difference = x.double()[:, None] - c.double()
            expected = (difference.square() * weight).sum(-1).argmin(1)
            assert torch.equal(search(x, c, "weighted", weight), expected)
        cosine = torch.cosine_similarity(x.double()[:, None], c.double(), dim=-1)
        assert torch.equal(search(x, c, "cosine"), cosine.argmax(1))


def test_entries_are_bounded() -> None:
    x, books = torch.randn(10, 4), [torch.randn(70, 4) for _ in range(3 * ENTRIES)]
    for _ in range(2):
        for c in books:
            check(x, c)
    assert entries() == ENTRIES


def test_instruction_sets_do_not_share_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    x, c = torch.randn(30, 11), torch.randn(333, 11)
    best = torch.ops.vtp_cpu.isa()
    for isa in ("portable", best, "portable", best):
        monkeypatch.setenv("VTP_CPU_ISA", isa)
        check(x, c)


def test_threads_search_different_and_changing_codebooks_at_once() -> None:
    x, shared = torch.randn(64, 10), torch.randn(400, 10)
    wrong: list[int] = []

    def many(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for step in range(40):
            own = torch.randn(300, 10, generator=generator)
            if not torch.equal(search(x, own), nearest(x, own)):
                wrong.append(step)
            if not torch.equal(search(x, shared), nearest(x, shared)):
                wrong.append(-step)
            own.neg_()
            if not torch.equal(search(x, own), nearest(x, own)):
                wrong.append(1000 + step)

    threads = [threading.Thread(target=many, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert entries() <= ENTRIES


def test_memory_besides_the_packed_codebook_does_not_grow_with_the_rows() -> None:
    c = torch.randn(2000, 16)
    search(torch.randn(10, 16), c)
    packed = torch.ops.vtp_cpu.packed_codebooks()[1]
    assert packed < 2 * c.numel() * 4 + 200_000
    search(torch.randn(20_000, 16), c)
    assert torch.ops.vtp_cpu.packed_codebooks()[1] == packed


def test_a_codebook_that_dies_while_something_is_traced_leaves_no_node_in_the_graph() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    codebooks = [torch.randn(9, 4)]
    search(torch.randn(3, 4), codebooks[0])
    assert entries() == 1

    def doubled(x: Tensor) -> Tensor:
        codebooks.clear()
        gc.collect()
        return x * 2

    graph = make_fx(doubled)(torch.randn(2)).graph
    assert entries() == 0
    assert not [node for node in graph.nodes if "vtp_cpu" in str(node.target)]
