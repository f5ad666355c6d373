"""EMA copies against the plain formula in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vtp_core.errors import UsageError
from vtp_core.schedule import Cosine, value_at
from vtp_core.training.optim.ema import Ema


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 5)
        self.norm = nn.BatchNorm1d(5)
        self.register_buffer("cache", torch.zeros(2), persistent=False)


def make(dtype=torch.float64) -> Network:
    torch.manual_seed(0)
    return Network().to(dtype)


@given(momentum=st.floats(0.0, 1.0), steps=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_update_is_the_plain_average(momentum, steps, seed):
    student = make()
    ema = Ema({"tokenizer.encoder": student}, momentum)
    expected = {name: value.detach().clone() for name, value in student.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    for index in range(steps):
        with torch.no_grad():
            for value in student.parameters():
                value.add_(torch.randn(value.shape, generator=generator, dtype=value.dtype))
        ema.update(index, steps)
        for name, value in student.named_parameters():
            expected[name] = momentum * expected[name] + (1 - momentum) * value.detach()
    for name, value in ema.modules["tokenizer.encoder"].named_parameters():
        torch.testing.assert_close(value.detach(), expected[name], rtol=1e-12, atol=1e-12)


def test_each_copy_has_its_own_schedule():
    encoder, head = make(), make()
    schedule, other = Cosine(start=0.9, end=1.0), Cosine(start=0.5, end=0.7)
    ema = Ema(
        {"tokenizer.encoder": encoder, "objectives.dino.head": head},
        schedule,
        {"objectives.dino.head": other},
    )
    start = encoder.linear.weight.detach().clone()
    with torch.no_grad():
        encoder.linear.weight.add_(1.0)
        head.linear.weight.add_(1.0)
    ema.update(3, 10)
    moved = (ema.modules["tokenizer.encoder"].linear.weight - start).mean().item()
    assert moved == pytest.approx(1 - value_at(schedule, 3, 10))
    assert (ema.modules["objectives.dino.head"].linear.weight - start).mean().item() == pytest.approx(
        1 - value_at(other, 3, 10)
    )


def test_it_is_a_copy_without_gradient_in_eval_mode():
    student = make().train()
    teacher = Ema({"a": student}, 0.9).modules["a"]
    assert not teacher.training and student.training
    assert not any(value.requires_grad for value in teacher.parameters())
    assert all(value.requires_grad for value in student.parameters())
    storages = {value.data_ptr() for value in student.parameters()}
    assert storages.isdisjoint(value.data_ptr() for value in teacher.parameters())


def test_a_momentum_of_one_changes_no_bit():
    student = make(torch.float32)
    ema = Ema({"a": student}, 1.0)
    before = [value.clone() for value in ema.modules["a"].parameters()]
    nn.init.normal_(student.linear.weight)
    ema.update(0, 1)
    assert all(torch.equal(x, y) for x, y in zip(before, ema.modules["a"].parameters(), strict=True))


def test_buffers_are_copied_and_saved_unless_they_are_caches():
    student = make()
    ema = Ema({"tokenizer.encoder": student}, 0.99)
    student.norm.running_mean.fill_(3.0)
    student.norm.num_batches_tracked.fill_(7)
    student.cache.fill_(2.0)
    ema.update(0, 1)
    teacher = ema.modules["tokenizer.encoder"]
    assert (
        (teacher.norm.running_mean == 3).all()
        and teacher.norm.num_batches_tracked == 7
        and (teacher.cache == 2).all()
    )
    names = set(ema.state_tensors())
    assert (
        "ema.tokenizer.encoder.linear.weight" in names and "ema.tokenizer.encoder.norm.running_mean" in names
    )
    assert not any("cache" in name for name in names)


def test_state_tensors_are_the_live_ones():
    student = make()
    ema = Ema({"a": student}, 0.0)
    state = ema.state_tensors()
    nn.init.normal_(student.linear.weight)
    ema.update(0, 1)
    assert torch.equal(state["ema.a.linear.weight"], student.linear.weight)


def test_a_student_that_changed_is_named():
    student = make()
    ema = Ema({"tokenizer.encoder": student}, 0.9)
    student.extra = nn.Linear(2, 2)
    with pytest.raises(UsageError, match=r"tokenizer\.encoder: extra\.bias exists only in the student"):
        ema.update(0, 1)
    del student.extra
    student.linear = nn.Linear(3, 6).double()
    with pytest.raises(UsageError, match=r"tokenizer\.encoder: linear\.(bias|weight) is laid out as"):
        ema.update(0, 1)


def test_a_momentum_of_a_module_without_a_copy_is_refused():
    student = make()
    with pytest.raises(UsageError, match=r"ema\.momenta\.tokenizer\.decoder"):
        Ema({"tokenizer.encoder": student}, 0.9, {"tokenizer.decoder": 0.5})
