"""DINO, MIM and KoLeo in the real joint step: one plain backward, row chunks, sharded ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.core.training.rank_bodies import Capture
from vtp_core.objective import Objective
from vtp_core.testing import TINY_DIMS, TinyNetworks, drawn_batch
from vtp_core.testing.ranks import run_processes
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.joint import JointStep
from vtp_core.training.networks import Networks
from vtp_core.training.optim.ema import build_ema
from vtp_core.training.ranks.parallel import build_mesh, wrap
from vtp_core.training.ranks.world import World
from vtp_core.view import ViewNeed
from vtp_plugins.dino.config import DinoConfig
from vtp_plugins.dino.objective import Dino
from vtp_plugins.koleo.config import KoleoConfig
from vtp_plugins.koleo.objective import Koleo
from vtp_plugins.mim.config import MimConfig
from vtp_plugins.mim.objective import Mim

NEED = ViewNeed(crops=("global", "local"), masked=True)
SIZES: dict[str, Any] = {"view": "ssl", "prototypes": 12, "head_hidden": 10, "head_width": 6}


def _networks(targets: str) -> Networks:
    """Students, and teachers that differ from them."""
    torch.manual_seed(0)
    tiny, other = TinyNetworks().double(), TinyNetworks(seed=5).double()
    shared: dict[str, Any] = {"view": "ssl", "prototypes": 12, "share_head_with": "dino", "targets": targets}
    objectives: dict[str, Objective] = {
        "dino": Dino(DinoConfig(use="dino", targets=targets, **SIZES), TINY_DIMS),  # type: ignore[arg-type]
        "mim": Mim(MimConfig(use="mim", weight=0.7, **shared), TINY_DIMS),
        "latent_mim": Mim(MimConfig(use="mim", bottleneck=True, **SIZES), TINY_DIMS),
        "koleo": Koleo(KoleoConfig(use="koleo", view="ssl"), TINY_DIMS),
    }
    networks = Networks(
        encoder=tiny.encoder,
        bottleneck=tiny.bottleneck,
        decoder=tiny.decoder,
        objectives={name: objective.double() for name, objective in objectives.items()},
    )
    build_ema(networks, 0.9)
    for name, teacher in networks.ema.items():
        if name.startswith("tokenizer."):
            teacher.load_state_dict(other.get_submodule(name.removeprefix("tokenizer.")).state_dict())
        else:
            for parameter in teacher.parameters():
                parameter.add_(torch.randn(parameter.shape).double() * 0.3)
    return networks


def _captured(world: World, targets: str, chunk: int | None, shard: int | None) -> dict[str, Tensor]:
    networks = _networks(targets)
    wrap(networks, build_mesh(world, shard or world.size))
    capture = Capture(networks, world)
    batch = drawn_batch(NEED, rows=6, dtype=torch.float64, world=world)
    options = ForwardOptions(total=10, microbatch_rows=chunk)
    result = JointStep(networks, world, options, update=capture)({"ssl": batch}, 0)  # type: ignore[arg-type]
    assert result.skipped is None
    scalars = {k: torch.tensor(v, dtype=torch.float64) for k, v in (result.terms | result.report).items()}
    tallies = {f"{name}|{k}": v for name, tally in capture.tallies.items() for k, v in tally.sums.items()}
    return capture.found | scalars | tallies


def _all(world: World, cases: list[tuple[str, int | None, int | None]]) -> dict[str, Tensor]:
    return {f"{i}|{k}": v for i, case in enumerate(cases) for k, v in _captured(world, *case).items()}


def test_gradients_are_those_of_one_plain_backward() -> None:
    """Each loss again from its formula, with all scores at once, in one graph."""
    networks = _networks("centering")
    found = _captured(World(), "centering", None, None)
    batch = drawn_batch(NEED, rows=6, dtype=torch.float64)
    assert batch.masks is not None
    mask = batch.masks.mask
    crops = [batch.crops["global"], batch.crops["local"]]
    student = networks.encoder(crops, [mask, None])
    teacher = networks.ema["tokenizer.encoder"](crops[:1], [None])[0]
    dino = networks.objectives["dino"]
    assert isinstance(dino, Dino) and student[0].cls is not None and student[1].cls is not None

    def scores(tokens: Tensor, who: str) -> Tensor:
        modules = [networks.named(f"objectives.dino.{name}") for name in ("head", "prototypes")]
        if who == "teacher":
            modules = [networks.ema[f"objectives.dino.{name}"] for name in ("head", "prototypes")]
        return modules[0](tokens) @ modules[1](torch.arange(12)).T

    def cross(tokens: Tensor, targets: Tensor) -> Tensor:
        target = (scores(targets, "teacher") / 0.04).softmax(-1).detach()
        return -(target * (scores(tokens, "student") / 0.1).log_softmax(-1)).sum(-1)

    cls, theirs = student[0].cls, teacher.cls
    pairs = [cross(cls[:, 0], theirs[:, 1]), cross(cls[:, 1], theirs[:, 0])]
    pairs += [cross(student[1].cls[:, i], theirs[:, j]) for i in range(3) for j in range(2)]
    patch = cross(student[0].patches[mask], teacher.patches[mask]) * batch.masks.weight[mask]
    unit = F.normalize(cls, dim=-1)
    nearest = torch.cdist(unit.transpose(0, 1), unit.transpose(0, 1)) + 9 * torch.eye(6)
    terms = {
        "dino/distillation": torch.stack(pairs).mean(),
        "mim/distillation": patch.sum() / 12,
        "koleo/spread": -nearest.amin(-1).log().mean(1).sum(),
    }
    for name, term in terms.items():
        assert found[name].item() == pytest.approx(term.item(), rel=1e-6), name
    assert networks.objectives["koleo"].config.weight == 0.1
    total = terms["dino/distillation"] + 0.7 * terms["mim/distillation"]
    head = {name: p for name, p in networks.parameters_of("dino").items() if p.requires_grad}
    expected = torch.autograd.grad(total, list(head.values()))
    for name, gradient in zip(head, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-13, msg=name)


@pytest.mark.parametrize("targets", ["sinkhorn", "centering"])
def test_row_chunks_change_nothing(targets: str) -> None:
    whole, chunked = (_captured(World(), targets, chunk, None) for chunk in (None, 4))
    assert whole.keys() == chunked.keys() and len(whole) > 30
    for name, value in whole.items():
        torch.testing.assert_close(chunked[name], value, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_have_the_gradient_of_one() -> None:
    """Sharded and replicated heads, whole and in chunks, both kinds of targets."""
    cases = [("sinkhorn", None, 2), ("centering", 2, 2), ("sinkhorn", 1, 1)]
    alone = _all(World(), cases)
    for found in run_processes(2, _all, cases):
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)
