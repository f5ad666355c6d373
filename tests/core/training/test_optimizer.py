"""The main optimiser against torch's own AdamW with groups made by hand, and clipping against torch's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vtp_core.config import OptimizerOverrides
from vtp_core.errors import UsageError
from vtp_core.parameters import ParamRule
from vtp_core.plugins import Plugins, hookimpl
from vtp_core.schedule import Constant, Cosine, value_at
from vtp_core.training.optim.algorithm import AdamW
from vtp_core.training.optim.optimizer import Owner, build_optimizer


def config(**changes):
    values = {
        "use": "adamw", "lr": Cosine(start=1e-2, end=1e-4, warmup=3), "weight_decay": 0.1,
        "betas": (0.9, 0.95), "eps": 1e-8, "clip": 1.0, "clip_scope": "global", "owners": {},
    }  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3))


def owner(module: nn.Module, name: str = "encoder", rules=(), **overrides) -> Owner:
    prefix = f"tokenizer.{name}."
    return Owner(
        name=name,
        parameters={prefix + key: value for key, value in module.named_parameters()},
        rules=rules,
        prefix=prefix,
        overrides=OptimizerOverrides(**overrides),
    )


def fill_gradients(modules, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_equals_torch_adamw_with_hand_made_groups():
    ours, theirs = [network(0), network(1)], [network(0), network(1)]
    rules = [ParamRule(pattern="0.*", lr=0.5), ParamRule(pattern="*.bias", decay=2.0)]
    settings_ = config()
    optimizer = build_optimizer(
        [owner(ours[0], rules=rules), owner(ours[1], "decoder", lr=3.0, weight_decay=0.5)], settings_, 20
    )
    a, b = theirs
    # (parameter, factor on the rate, factor on the decay): layer 0 keeps the default decay of its shape.
    table = [
        (a[0].weight, 0.5, 1.0), (a[0].bias, 0.5, 0.0), (a[1].weight, 1.0, 0.0), (a[1].bias, 1.0, 2.0),
        (a[2].weight, 1.0, 1.0), (a[2].bias, 1.0, 2.0), (b[0].weight, 3.0, 0.5), (b[0].bias, 3.0, 0.0),
        (b[1].weight, 3.0, 0.0), (b[1].bias, 3.0, 0.0), (b[2].weight, 3.0, 0.5), (b[2].bias, 3.0, 0.0),
    ]  # fmt: skip
    reference = torch.optim.AdamW([{"params": [row[0]]} for row in table], betas=(0.9, 0.95), fused=True)
    for index in range(6):
        optimizer.set_schedules(index)
        for group, (_, rate, decay) in zip(reference.param_groups, table, strict=True):
            group["lr"] = settings_.lr.at(index, 20) * rate
            group["weight_decay"] = 0.1 * decay
        fill_gradients(ours, index)
        fill_gradients(theirs, index)
        optimizer.step()
        reference.step()
    for mine, their in zip(ours, theirs, strict=True):
        for left, right in zip(mine.parameters(), their.parameters(), strict=True):
            assert torch.equal(left, right)
            assert not torch.equal(left, torch.zeros_like(left))


def test_state_exists_before_the_first_step_and_round_trips():
    module = network()
    optimizer = build_optimizer([owner(module)], config(), 10)
    names = set(optimizer.state_tensors())
    assert len(names) == 3 * len(list(module.parameters()))
    assert "optimizer.encoder.0.weight.exp_avg_sq" in names
    fill_gradients([module], 0)
    optimizer.step()
    assert set(optimizer.state_tensors()) == names

    weights = {key: value.clone() for key, value in module.state_dict().items()}
    saved = {key: value.clone() for key, value in optimizer.state_tensors().items()}
    other = network(5)
    other.load_state_dict(weights)
    resumed = build_optimizer([owner(other)], config(), 10)
    for name, value in resumed.state_tensors().items():
        value.copy_(saved[name])
    for run, net in ((optimizer, module), (resumed, other)):
        run.set_schedules(1)
        fill_gradients([net], 1)
        run.step()
    assert all(torch.equal(x, y) for x, y in zip(module.parameters(), other.parameters(), strict=True))


def test_rate_of_zero_freezes_and_describe_says_so():
    module = network()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    rules = [
        ParamRule(pattern="0.weight", lr=0.0),
        ParamRule(pattern="0.bias", lr=Constant(value=0.0)),
        ParamRule(pattern="2.bias", lr=Constant(value=0.0, warmup=4, warmup_from=1.0), clamp=(-0.1, 0.1)),
    ]
    optimizer = build_optimizer([owner(module, rules=rules)], config(clip=None), 10)
    assert not module[0].weight.requires_grad and not module[0].bias.requires_grad
    assert module[2].bias.requires_grad
    assert not any(".0." in name for name in optimizer.state_tensors())
    rows = {(row.pattern, row.decay): row for row in optimizer.describe()}
    assert rows["0.weight", 1.0].frozen and rows["0.weight", 1.0].elements == 35
    assert rows["2.bias", 0.0].clamp == (-0.1, 0.1) and not rows["2.bias", 0.0].frozen
    assert rows["*", 0.0].tensors == 2 and rows["*", 1.0].tensors == 1
    assert sum(row.elements for row in rows.values()) == sum(value.numel() for value in module.parameters())
    fill_gradients([module], 0)
    optimizer.set_schedules(1)
    optimizer.step()
    assert torch.equal(module[0].weight, before["0.weight"])
    assert not torch.equal(module[2].weight, before["2.weight"])


def test_an_owner_factor_of_zero_freezes_all_of_it():
    module, other = network(), network(1)
    optimizer = build_optimizer([owner(module, lr=0.0), owner(other, "decoder")], config(), 10)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert all(name.startswith("optimizer.decoder.") for name in optimizer.state_tensors())


def test_a_parameter_with_two_owners_is_refused():
    module = network()
    with pytest.raises(UsageError, match=r"0\.weight of owner decoder is already trained as .* of encoder"):
        build_optimizer([owner(module), owner(module, "decoder")], config(), 10)


def test_clamp_bounds_only_the_parameters_of_its_rule():
    module = network()
    rules = [ParamRule(pattern="2.*", clamp=(-0.01, 0.02))]
    optimizer = build_optimizer([owner(module, rules=rules)], config(), 1)
    untouched = module[0].weight.detach().clone()
    optimizer.clamp()
    bounds = (module[2].weight.min().item(), module[2].weight.max().item())
    assert bounds == pytest.approx((-0.01, 0.02))
    assert torch.equal(module[0].weight, untouched)


def test_a_parameter_without_gradient_stays_with_its_state():
    module = network()
    optimizer = build_optimizer([owner(module)], config(), 10)
    fill_gradients([module], 0)
    module[2].weight.grad = None
    before = module[2].weight.detach().clone()
    optimizer.step()
    assert torch.equal(module[2].weight, before)
    assert optimizer.state_tensors()["optimizer.encoder.2.weight.step"] == 0
    assert optimizer.state_tensors()["optimizer.encoder.2.bias.step"] == 1
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in module.parameters())


class Late(AdamW):
    """A counterexample: it leaves a part of the state to torch, which makes it in the first step."""

    def build(self, method, groups):
        return torch.optim.AdamW(groups, amsgrad=True)

    def state(self, method, parameter):
        return {}


def test_state_that_appears_in_the_first_step_is_refused():
    module = network()
    plugins = Plugins()
    offer = hookimpl(specname="register_optimizers")(lambda register: register("late", Late))
    plugins.add(SimpleNamespace(vtp_api=2, offer=offer), "foo")
    optimizer = build_optimizer([owner(module)], config(use="foo.late"), 10, plugins)
    fill_gradients([module], 0)
    with pytest.raises(UsageError, match=r"encoder\.0\.bias\.exp_avg was created or dropped .* of Late"):
        optimizer.step()


def test_an_unknown_algorithm_is_named():
    with pytest.raises(UsageError, match='unknown optimizer "adamv": did you mean "adamw"'):
        build_optimizer([owner(network())], config(use="adamv"), 10)


@given(scale=st.floats(1e-4, 1e4), limit=st.floats(1e-2, 10.0), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_global_clip_equals_torch(scale, limit, seed):
    ours, theirs = [network(), network(1)], [network(), network(1)]
    optimizer = build_optimizer([owner(ours[0]), owner(ours[1], "decoder")], config(clip=limit), 10)
    for modules in (ours, theirs):
        fill_gradients(modules, seed)
        for module in modules:
            for parameter in module.parameters():
                parameter.grad.mul_(scale)
    clipped = optimizer.clip("global")
    norm = torch.nn.utils.clip_grad_norm_([p for module in theirs for p in module.parameters()], limit)
    assert clipped.norm == pytest.approx(norm.item(), rel=1e-5) and clipped.finite
    assert clipped.norm**2 == pytest.approx(sum(value**2 for value in clipped.norms.values()), rel=1e-5)
    for mine, their in zip(ours, theirs, strict=True):
        for left, right in zip(mine.parameters(), their.parameters(), strict=True):
            torch.testing.assert_close(left.grad, right.grad, rtol=1e-5, atol=1e-12)


def test_clip_by_owner_scales_each_on_its_own():
    modules = [network(), network(1)]
    optimizer = build_optimizer([owner(modules[0]), owner(modules[1], "decoder")], config(clip=2.0), 10)
    fill_gradients(modules, 0)
    for parameter in modules[1].parameters():
        parameter.grad.mul_(1e-3)
    small = [parameter.grad.clone() for parameter in modules[1].parameters()]
    clipped = optimizer.clip("owner")
    assert clipped.factors["encoder"] == pytest.approx(2.0 / clipped.norms["encoder"], rel=1e-5)
    assert clipped.factors["decoder"] == 1.0
    assert all(torch.equal(a, b.grad) for a, b in zip(small, modules[1].parameters(), strict=True))
    total = torch.cat([parameter.grad.flatten() for parameter in modules[0].parameters()]).norm()
    assert total.item() == pytest.approx(2.0, rel=1e-5)


def test_an_infinite_gradient_is_seen_and_scales_nothing():
    module = network()
    optimizer = build_optimizer([owner(module)], config(clip=0.1), 10)
    fill_gradients([module], 0)
    module[0].bias.grad[1] = torch.inf
    before = module[2].weight.grad.clone()
    clipped = optimizer.clip("global")
    assert not clipped.finite
    assert torch.equal(module[2].weight.grad, before)


def test_schedules_set_rates_and_decays_of_every_group():
    schedule = Cosine(start=1.0, end=0.0)
    rules = [ParamRule(pattern="0.*", lr=schedule, decay=0.25)]
    settings_ = config(lr=Cosine(start=1e-3, end=0.0, warmup=5), weight_decay=Cosine(start=0.1, end=0.4))
    optimizer = build_optimizer([owner(network(), rules=rules, lr=2.0)], settings_, 50)
    optimizer.set_schedules(17)
    rate, decay = value_at(settings_.lr, 17, 50), value_at(settings_.weight_decay, 17, 50)
    seen = {(group["lr"], group["weight_decay"]) for group in optimizer._optimizers["adamw"].param_groups}
    assert seen == {(rate * schedule.at(17, 50) * 2.0, decay * 0.25), (rate * 2.0, decay), (rate * 2.0, 0.0)}
    assert optimizer.lr == rate
