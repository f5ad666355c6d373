"""What a training step of a quantiser asks for, keeps and leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.plugins.vq.quantizers import DIM, NAMES, ROTATED, TABLES, build
from vtp_core.features import Tally
from vtp_core.recipe.tables.optimizer import AdamWConfig
from vtp_core.testing import TINY_DIMS
from vtp_core.training.optim.optimizer import build_optimizer
from vtp_core.training.optim.owners import Owner
from vtp_plugins.vq.bottleneck import VqBottleneck
from vtp_plugins.vq.config import VqConfig
from vtp_plugins.vq.ema import EmaQuantizer
from vtp_plugins.vq.quantizer import Quantizer, count_codes
from vtp_plugins.vq.tokens import spread


class Watch(TorchDispatchMode):
    """Notes operators that would wait for a GPU, and the largest tensor that is made."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal", "is_nonzero", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if masks or name in self.WAITS:
            self.waits.append(str(func))
        found = func(*args, **(kwargs or {}))
        for value in torch.utils._pytree.tree_leaves(found):
            if torch.is_tensor(value):
                self.largest = max(self.largest, value.untyped_storage().nbytes() // value.itemsize)
        return found


def sampled(tally: Tally, rows: int) -> Tally:
    joined = {name: value.unflatten(0, (rows, -1)) for name, value in tally.rows.items()}
    return Tally(sums=tally.sums, rows=joined, moments=tally.moments)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_does_not_wait_for_the_device(name: str) -> None:
    quantizer, x = build(name), torch.randn(24, DIM, requires_grad=True)
    with Watch() as watch:
        found = quantizer(x)
        torch.stack([found.vectors.sum(), *(value for value in found.aux.values())]).sum().backward()
        quantizer.lookup(found.codes)
        quantizer.after_step(sampled(found.tally, 4), 0)
    assert not watch.waits


@pytest.mark.parametrize(
    "name", ["ema", "cosine", "codebook_loss", "simvq", "ibq", "product", "residual", *ROTATED]
)
def test_no_table_of_all_vectors_and_codes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtp_plugins.vq.ibq.TILE", 1 << 16)
    keys = {"each": {"kind": "ema", "codes": 4096}} if name == "product" else {"codes": 4096}
    quantizer, x = build(name, **keys), torch.randn(1024, DIM, requires_grad=True)
    with Watch() as watch:
        found = quantizer(x)
        torch.stack([found.vectors.sum(), *(value for value in found.aux.values())]).sum().backward()
        quantizer.after_step(sampled(found.tally, 64), 0)
    assert 4096 * 2 <= watch.largest <= 1024 * 4096 // 16


@pytest.mark.parametrize("name", TABLES)
def test_weight_decay_moves_no_codebook(name: str) -> None:
    """A step of the optimiser where all gradients are zero."""
    bottleneck = VqBottleneck(VqConfig(channels=DIM, quantizer=TABLES[name]), TINY_DIMS)
    parameters = dict(bottleneck.named_parameters())
    before = {key: value.detach().clone() for key, value in parameters.items()}
    for value in parameters.values():
        value.grad = torch.zeros_like(value)
    owner = Owner(name="bottleneck", parameters=parameters, rules=bottleneck.rules())
    build_optimizer([owner], AdamWConfig(lr=0.1, weight_decay=0.5), 1).step()
    moved = {key for key, value in parameters.items() if not torch.equal(value, before[key])}
    assert moved == {"project.weight"}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_frozen_makes_no_tally(name: str) -> None:
    tally = build(name).eval()(torch.randn(9, DIM)).tally
    assert not tally.sums and not tally.rows and not tally.moments


@pytest.mark.parametrize("name", NAMES)
def test_vectors_that_are_not_finite_spoil_no_gradient(name: str) -> None:
    quantizer, x = build(name), torch.randn(9, DIM)
    x[4, 1] = torch.nan
    x.requires_grad_()
    sum(quantizer(x).aux.values(), 0 * x[0].sum()).backward()
    for gradient in (x.grad, *(parameter.grad for parameter in quantizer.parameters())):
        assert gradient is None or gradient.isfinite().all()


@pytest.mark.parametrize(
    "name",
    ["ema", "cosine", "codebook_loss", "simvq", "ibq", "fsq", "bsq", "product", "residual", "residual fsq"],
)
def test_an_exported_quantiser_takes_any_number_of_vectors(name: str) -> None:
    class Codes(torch.nn.Module):
        def __init__(self, quantizer: Quantizer) -> None:
            super().__init__()
            self.quantizer = quantizer

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            found = self.quantizer(x)
            return found.vectors, found.codes

    whole, x = Codes(build(name)).eval(), torch.randn(11, DIM)
    rows = torch.export.Dim("rows", min=2)
    exported = torch.export.export(whole, (x[:8],), dynamic_shapes=({0: rows},)).module()
    for left, right in zip(exported(x), whole(x), strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize(
    ("skipped", "expected"),
    [((), [6, 9]), ((5, 8), [6, 9]), ((6,), [7, 9]), ((6, 7, 8), [9]), ((9,), [6, 10])],
)
def test_dead_codes_are_revived_although_steps_are_skipped(
    skipped: tuple[int, ...], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    quantizer, x, revived, missed = build("ema", revive_every=3), torch.randn(12, DIM), [], 0
    assert isinstance(quantizer, EmaQuantizer)
    monkeypatch.setattr(quantizer, "_revive", lambda vectors, index: revived.append(index))
    asked = []
    for index in range(5, 12):
        quantizer.before_step(range(index - missed, index + 1))
        tally = quantizer(x).tally
        missed += 1
        if index not in skipped:
            asked += [index] if tally.rows else []
            quantizer.after_step(sampled(tally, 3), index)
            missed = 0
    assert revived == asked == expected


def test_a_quantiser_that_is_not_told_of_steps_asks_for_vectors_in_each() -> None:
    quantizer, x = build("ema", revive_every=3, dead_below=0.9), torch.randn(12, DIM)
    for index in range(5, 8):
        tally = quantizer(x).tally
        assert tally.rows
        quantizer.after_step(sampled(tally, 3), index)


def test_codes_that_are_revived_in_vain_do_not_count_as_used() -> None:
    torch.manual_seed(0)
    quantizer = build("ema", revive_every=1, dead_below=0.9, window=5)
    x = torch.randn(16, DIM)
    quantizer.initialise(x)
    found = quantizer(x)  # all codes are used once
    quantizer.after_step(sampled(found.tally, 4), 0)
    assert quantizer.meters.usage() > 0.9
    far = torch.full((16, DIM), 50.0)
    for index in range(1, 12):
        found = quantizer(far)
        quantizer.after_step(sampled(found.tally, 4), index)
    assert len(found.codes.unique()) <= 2
    assert quantizer.meters.usage() <= 2 / 16


def test_an_unused_cosine_code_keeps_its_direction() -> None:
    quantizer = build("cosine", decay=0.5, revive=False)
    assert isinstance(quantizer, EmaQuantizer)
    one = torch.zeros(6, DIM)
    one[:, 0] = 1
    before = quantizer.codebook.clone()
    used = quantizer(one).codes[0, 0]
    for index in range(300):
        quantizer.after_step(quantizer(one).tally, index)
    others = torch.arange(16) != used
    assert torch.equal(quantizer.codebook[others], before[others])
    torch.testing.assert_close(quantizer.codebook[used], one[0])


@pytest.mark.parametrize(("side", "count"), [(16, 16), (16, 64), (14, 16), (8, 3)])
def test_a_sample_covers_rows_and_columns_of_the_grid(side: int, count: int) -> None:
    places = torch.arange(side * side).view(1, -1, 1)
    found = spread(places, count).flatten()
    assert len(found.unique()) == count
    least = max(min(count, side) // 2, 2)
    assert len((found % side).unique()) >= least and len((found // side).unique()) >= least


def test_codes_are_counted_as_plainly() -> None:
    index = torch.randint(-1, 7, (50,), generator=torch.Generator().manual_seed(0))
    assert count_codes(index, 7).tolist() == [(index == code).sum().item() for code in range(7)]
    assert count_codes(index[:0], 3).tolist() == [0, 0, 0]
