"""KoLeo against a plain formula; ranks, equal rows, a single row, zero vectors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from vtp_core.errors import UsageError
from vtp_core.features import Features, Tokens
from vtp_core.testing import TINY_DIMS, FakeStep, check_objective, drawn_batch
from vtp_core.testing.ranks import run_ranks
from vtp_core.training.ranks.world import World
from vtp_plugins.koleo.config import KoleoConfig
from vtp_plugins.koleo.loss import spread, unit
from vtp_plugins.koleo.objective import Koleo

TABLE: dict[str, Any] = {"use": "koleo", "view": "ssl"}


@pytest.mark.parametrize("options", [{}, {"bottleneck": True, "masked": False, "rows": 4}])
def test_conformance(options: dict[str, Any]) -> None:
    check_objective(Koleo, KoleoConfig(**TABLE, **options))


def test_conformance_within_ranks() -> None:
    check_objective(Koleo, KoleoConfig(**TABLE, scope="rank"), ranks=1)


def _loss(cls: Tensor, scope: str = "global", world: Any = None) -> Tensor:
    """The term for class tokens (B, C, D)."""
    config = KoleoConfig(**TABLE, scope=scope)
    batch = drawn_batch(config.views()["ssl"], rows=len(cls), dtype=cls.dtype)
    patches = cls.unsqueeze(2).repeat(1, 1, 4, 1)
    features = Features(crops={"global": Tokens(patches=patches, grid=(2, 2), cls=cls)})
    objective = Koleo(config, TINY_DIMS)
    step = FakeStep({"ssl": batch}, objective, features={"ssl": features}, world=world)
    term: Tensor = objective(step).terms["spread"]
    step.backward(term)
    (leaf,) = [leaf for name, leaf in step.cuts.items() if name.endswith(".cls")]
    assert leaf.grad is not None and torch.isfinite(leaf.grad).all()
    return term.detach()


def _plain(cls: numpy.ndarray) -> float:
    total = 0.0
    for crop in range(cls.shape[1]):
        rows = cls[:, crop] / numpy.linalg.norm(cls[:, crop], axis=1, keepdims=True)
        distances = numpy.linalg.norm(rows[:, None] - rows[None], axis=-1)
        numpy.fill_diagonal(distances, numpy.inf)
        total += -numpy.log(distances.min(1)).mean()
    return total


def test_against_plain_numpy() -> None:
    cls = torch.randn(7, 3, 5, dtype=torch.float64)
    assert _loss(cls).item() == pytest.approx(_plain(cls.numpy()), rel=1e-6)


def test_scopes() -> None:
    cls = torch.randn(6, 2, 5, dtype=torch.float64)

    def body(scope: str, world: World) -> Tensor:
        config = KoleoConfig(**TABLE, scope=scope)  # type: ignore[arg-type]
        local = cls[world.rank :: 2]
        batch = drawn_batch(config.views()["ssl"], rows=3, dtype=cls.dtype)
        tokens = Tokens(patches=local.unsqueeze(2), grid=(1, 1), cls=local)
        given = {"ssl": Features(crops={"global": tokens})}
        objective = Koleo(config, TINY_DIMS)
        term: Tensor = objective(FakeStep({"ssl": batch}, objective, features=given, world=world)).terms[
            "spread"
        ]
        return term.detach()

    everyone = torch.stack(run_ranks(2, lambda world: body("global", world))).mean()
    assert everyone.item() == pytest.approx(_plain(cls.numpy()), rel=1e-6)
    apart = torch.stack(run_ranks(2, lambda world: body("rank", world))).mean()
    halves = (_plain(cls[::2].numpy()) + _plain(cls[1::2].numpy())) / 2
    assert apart.item() == pytest.approx(halves, rel=1e-6) and halves != pytest.approx(_plain(cls.numpy()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_degenerate_rows_stay_finite(dtype: torch.dtype) -> None:
    same = torch.ones(5, 2, 8, dtype=dtype)
    assert 15 < _loss(same).item() / 2 < 20  # minus the logarithm of eps
    assert _loss(torch.zeros(4, 2, 8, dtype=dtype)).isfinite()
    assert _loss(torch.randn(1, 2, 8).to(dtype)).item() == 0
    assert _loss(torch.randn(1, 2, 8).to(dtype), scope="rank").item() == 0


def test_equal_rows_do_not_push_each_other() -> None:
    rows = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    spread(unit(rows, 1e-8), unit(rows, 1e-8), torch.arange(3), 1e-8).sum().backward()
    assert rows.grad is not None and rows.grad.abs().max() < 1e-6


def test_neighbours_push_both_ways() -> None:
    """The nearest row gets a gradient too, as in DINOv2."""
    rows = torch.nn.functional.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1).requires_grad_()
    other = rows.detach().clone().requires_grad_()
    spread(rows, other, torch.arange(6), 1e-8).sum().backward()
    assert rows.grad is not None and other.grad is not None
    torch.testing.assert_close(rows.grad.sum(0), -other.grad.sum(0))
    assert other.grad.abs().max() > 0


def test_an_encoder_without_class_token_is_an_error() -> None:
    with pytest.raises(UsageError, match="no class token"):
        Koleo(KoleoConfig(**TABLE), replace(TINY_DIMS, has_cls=False))
    assert KoleoConfig(**TABLE).weight == 0.1
