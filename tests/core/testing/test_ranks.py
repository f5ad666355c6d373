"""Ranks as threads and as processes."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException

from vtp_core.testing import run_processes, run_ranks
from vtp_core.training.ranks.world import World


def _collectives(world: World) -> dict[str, Tensor]:
    x = (torch.arange(6, dtype=torch.float64).view(3, 2) * 10 + world.rank).requires_grad_()
    weights = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64) * (world.rank + 1)
    gathered = world.gather(x)
    factors = torch.arange(gathered.numel()).view(-1, 2) * (world.rank + 1)
    loss = (gathered * factors).sum() + world.mean(x[:, 0] ** 2, weights)
    (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
    return {
        "gathered": gathered.detach(),
        "sum": world.sum(x),
        "mean": world.mean(x[:, 0] ** 2, weights).detach(),
        "empty": world.mean(x[:, 0], torch.zeros(3)).detach(),
        "gradient": gradient,
    }


def test_one_rank() -> None:
    for found in (_collectives(World()), run_ranks(1, _collectives)[0]):
        x = torch.arange(6, dtype=torch.float64).view(3, 2) * 10
        assert torch.equal(found["gathered"], x) and torch.equal(found["sum"], x)
        assert found["mean"].item() == pytest.approx((0 * 1 + 2 * 40**2) / 3)
        assert found["empty"].item() == 0


def test_threads_agree_with_plain_formulas() -> None:
    first, second = run_ranks(2, _collectives)
    expected = torch.arange(6, dtype=torch.float64).view(3, 2) * 10
    assert torch.equal(first["gathered"][0::2], expected) and torch.equal(
        first["gathered"][1::2], expected + 1
    )
    assert torch.equal(first["gathered"], second["gathered"]) and torch.equal(first["sum"], 2 * expected + 1)
    share = (first["mean"] + second["mean"]).item() / 2
    assert share == pytest.approx((1 * 0 + 2 * 40**2 + 2 * 1 + 4 * 41**2) / 9)
    _assert_gradients([first["gradient"], second["gradient"]])


def test_a_failing_rank_frees_the_others() -> None:
    def body(world: World) -> None:
        if world.rank == 1:
            raise KeyError("mine")
        world.sum(torch.zeros(()))

    with pytest.raises(KeyError, match="mine"):
        run_ranks(2, body, timeout=30)


def test_the_error_of_a_rank_that_waited_is_not_the_cause() -> None:
    def body(world: World) -> None:
        if world.rank == 1:
            raise KeyError("mine")
        try:
            world.sum(torch.zeros(()))
        except Exception as error:
            raise ValueError("a wrapper") from error

    with pytest.raises(KeyError, match="mine"):
        run_ranks(2, body, timeout=30)


def test_different_collectives_are_named() -> None:
    def body(world: World) -> None:
        world.sum(torch.zeros(1)) if world.rank else world.gather(torch.zeros(1))

    with pytest.raises(RuntimeError, match="different collectives"):
        run_ranks(2, body, timeout=30)


def test_a_missing_call_ends() -> None:
    def body(world: World) -> None:
        if world.rank:
            world.sum(torch.zeros(()))

    with pytest.raises(RuntimeError, match="fewer collective calls"):
        run_ranks(2, body, timeout=0.5)


def test_one_rank_computes_at_a_time() -> None:
    """Threads share torch's global generator: what one draws between collectives is not another's."""

    def body(world: World) -> Tensor:
        world.sum(torch.zeros(()))
        torch.manual_seed(world.rank)
        time.sleep(0.01)
        return torch.rand(3)

    with torch.random.fork_rng(devices=[]):
        for rank, drawn in enumerate(run_ranks(3, body)):
            assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(rank)))


@pytest.mark.distributed
def test_processes_agree_with_threads() -> None:
    processes, threads = run_processes(2, _collectives), run_ranks(2, _collectives)
    for real, simulated in zip(processes, threads, strict=True):
        for name, value in simulated.items():
            assert torch.allclose(real[name], value), name


def _environment(world: World, name: str) -> dict[str, Tensor]:
    return {"value": torch.tensor(float(os.environ.get(name, "nan")))}


@pytest.mark.distributed
def test_processes_have_the_environment_of_their_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that are forked from a server that an earlier call started."""
    for value in ("1.0", "2.0"):
        monkeypatch.setenv("VTP_TEST_RANKS", value)
        assert [found["value"].item() for found in run_processes(2, _environment, "VTP_TEST_RANKS")] == [
            float(value)
        ] * 2
    monkeypatch.delenv("VTP_TEST_RANKS")
    assert all(found["value"].isnan() for found in run_processes(2, _environment, "VTP_TEST_RANKS"))


def _crash(world: World) -> dict[str, Tensor]:
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGSEGV)
    return {"value": world.sum(torch.ones(()))}


@pytest.mark.distributed
def test_a_crashed_process_leaves_its_stack() -> None:
    with pytest.raises(ProcessExitedException, match="process 1 terminated with signal SIGSEGV") as caught:
        run_processes(2, _crash)
    (stack,) = caught.value.__notes__
    assert "Segmentation fault" in stack and "in _crash" in stack


def _assert_gradients(found: list[Tensor]) -> None:
    """Of both ranks' losses, with respect to the rows that each rank owns."""
    x = torch.arange(12, dtype=torch.float64).view(6, 2)
    for rank, gradient in enumerate(found):
        own = torch.arange(6, dtype=torch.float64).view(3, 2) * 10 + rank
        expected = x[rank::2] * 3
        weights = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64) * (rank + 1)
        expected[:, 0] += 2 * own[:, 0] * weights * 2 / 9
        assert torch.allclose(gradient, expected)
