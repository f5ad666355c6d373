"""The loss against the paper's formula, the objective against the framework's rules."""

import math

import pytest
import torch
from vtp_plugin_ntxent.config import SimclrConfig
from vtp_plugin_ntxent.loss import nt_xent
from vtp_plugin_ntxent.objective import Simclr

import vtp_core as vtp
from vtp_core.testing import ConformanceError, FakeStep, check_objective, drawn_batch


def config(**keys):
    return SimclrConfig(use="ntxent.simclr", view="pair", **keys)


def unit_embeddings(rows, channels=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 2, channels, generator=generator, dtype=torch.float64)
    return x / x.norm(dim=-1, keepdim=True)


def by_the_formula(z, temperature):
    """Equation 1 of the paper, term by term: z_(2i) and z_(2i+1) are the crops of row i."""
    points = [row for pair in z.tolist() for row in pair]

    def similarity(i, k):
        return sum(a * b for a, b in zip(points[i], points[k], strict=True)) / temperature

    losses = []
    for i in range(len(points)):
        positive = i + 1 if i % 2 == 0 else i - 1
        total = sum(math.exp(similarity(i, k)) for k in range(len(points)) if k != i)
        losses.append(-math.log(math.exp(similarity(i, positive)) / total))
    return torch.tensor(losses, dtype=torch.float64).view(-1, 2)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_is_the_formula_of_the_paper(temperature):
    z = unit_embeddings(6)
    torch.testing.assert_close(nt_xent(z, z, torch.arange(6), temperature), by_the_formula(z, temperature))


def test_each_rank_computes_its_own_rows():
    z = unit_embeddings(6)
    every = nt_xent(z, z, torch.arange(6), 0.2)
    for rank in range(3):
        torch.testing.assert_close(nt_xent(z[rank::3], z, torch.arange(6)[rank::3], 0.2), every[rank::3])


def test_gradients_are_those_of_finite_differences():
    z = unit_embeddings(4, channels=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: nt_xent(x, x, torch.arange(4), 0.5).sum(), z)


@pytest.mark.parametrize("features", ["cls", "pooled"])
def test_objective_follows_the_rules(features):
    check_objective(Simclr, config(features=features), rows=8)


def test_three_ranks_give_the_gradient_of_one():
    check_objective(Simclr, config(), rows=6, ranks=3)


def test_a_gather_without_gradient_would_be_noticed():
    class Detached(Simclr):
        def forward(self, step):
            gather = step.gather
            step.gather = lambda x: gather(x).detach()
            return super().forward(step)

    with pytest.raises(ConformanceError, match=r"no gradient came back to what step\.gather returned"):
        check_objective(Detached, config())


def test_equal_embeddings_are_at_chance():
    objective = Simclr(config(), vtp.Dims(width=16, patch=8, depth=2, has_cls=True, channels=4))
    torch.nn.init.zeros_(objective.head[2].weight)
    step = FakeStep({"pair": drawn_batch(objective.views()["pair"], rows=4)}, objective)
    losses = objective(step)
    assert losses.terms["nt_xent"].item() == pytest.approx(math.log(7), rel=1e-6)
    assert losses.report["below_chance"].item() == pytest.approx(0, abs=1e-6)


def test_an_encoder_without_class_token_is_an_error_that_says_what_to_do():
    dims = vtp.Dims(width=16, patch=8, depth=2, has_cls=False, channels=4)
    with pytest.raises(vtp.UsageError, match='features = "pooled"'):
        Simclr(config(), dims)
    assert Simclr(config(features="pooled"), dims)


def test_the_same_crop_set_twice_is_refused():
    with pytest.raises(ValueError, match="two different crop sets"):
        config(crops=("global", "global"))
