"""The guard: what counts as non-finite, when a run ends, and which parameters are named."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vtp_core.errors import NumericError, UsageError
from vtp_core.training.optim.guard import Guard


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=6))
def test_names_the_first_term_that_is_not_finite(values):
    terms = {f"t{number}": torch.tensor(value) for number, value in enumerate(values)}
    bad = [number for number, value in enumerate(values) if value - value != 0]
    reason = Guard(3).check("clip", terms)
    if bad:
        assert reason is not None and reason.startswith(f"loss clip/t{bad[0]} is ")
    else:
        assert reason is None


def test_names_the_owner_of_an_infinite_gradient():
    guard = Guard(3)
    assert guard.check_gradients({"encoder": 1.0, "decoder": 2.0}) is None
    assert guard.check_gradients({"encoder": 1.0, "decoder": math.inf}) == "gradient of decoder has norm inf"


def test_a_run_ends_when_more_steps_in_a_row_are_skipped_than_allowed():
    guard = Guard(2)
    guard.last_checkpoint = "step-00000100"
    for step, reason in enumerate(["a", "a", None, "a", "a"]):
        guard.record(reason, step)
    assert guard.skipped_in_a_row == 2
    with pytest.raises(
        NumericError, match=r"step 5: loss clip/loss is nan; 3 steps .*step-00000100"
    ) as caught:
        guard.record("loss clip/loss is nan", 5)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_zero_allowed_ends_at_the_first():
    with pytest.raises(NumericError, match="none yet"):
        Guard(0).record("loss l1/l1 is inf", 0)


def test_audit_names_parameters_without_gradient_once():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0](torch.ones(1, 2)).sum().backward()
    guard = Guard(1)
    with pytest.raises(UsageError, match=r"owner decoder: no gradient reaches 1\.weight, 1\.bias;"):
        guard.audit("decoder", dict(module.named_parameters()))
    guard.audit("decoder", dict(module.named_parameters()))  # only the first active step is looked at
    module[1].requires_grad_(False)
    Guard(1).audit("decoder", dict(module.named_parameters()))


def test_audit_shortens_a_long_list():
    module = nn.Sequential(*(nn.Linear(1, 1) for _ in range(4)))
    with pytest.raises(UsageError, match=r"2\.weight and 3 more"):
        Guard(1).audit("encoder", dict(module.named_parameters()))
