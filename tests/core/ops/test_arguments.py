"""What a stranger may hand to the operators: always one line that names the argument, never a crash."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from vtp_core.ops import (
    Rope,
    attention_choice,
    code_statistics,
    nearest_code,
    rotation_trick,
    search_choice,
    straight_through,
    vit_attention,
)

X, CODES, INDEX = torch.randn(3, 4), torch.randn(5, 4), torch.tensor([0, 4, -1])
Q, P = torch.randn(2, 2, 3, 4), torch.randn(5, 2, 4)
TABLE = torch.ones(3, 4)

# Operator, and for each of its arguments something that fits.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "nearest_code": (
        nearest_code,
        {
            "vectors": X,
            "codebook": CODES,
            "metric": "weighted",
            "weight": torch.ones(4),
            "exact": True,
            "implementation": search_choice(),
        },
    ),
    "code_statistics": (code_statistics, {"vectors": X, "index": INDEX, "codes": 5}),
    "straight_through": (straight_through, {"vectors": X, "codes": X + 1}),
    "rotation_trick": (rotation_trick, {"vectors": X, "codes": X + 1}),
    "vit_attention": (
        vit_attention,
        {
            "q": Q,
            "k": Q,
            "v": Q,
            "q_norm": torch.ones(4),
            "k_norm": torch.ones(4),
            "rope": Rope(TABLE, TABLE),
            "scale": 0.5,
            "return_lse": False,
            "implementation": attention_choice(),
        },
    ),
    "vit_attention, packed": (vit_attention, {"q": P, "k": P, "v": P, "cu_seqlens": torch.tensor([0, 2, 5])}),
}
EVERY = [(name, argument) for name, (_, arguments) in CALLS.items() for argument in arguments]

NEVER = [
    [[1.0, 2.0]], (), (TABLE, TABLE), {}, range(3), object(), nn.Linear(2, 2), np.zeros((3, 4), np.float32),
    torch.ones(4, 4).to_sparse(), torch.ones(3, 4).to_mkldnn(), torch.ones(3, 4).to(torch.float8_e4m3fn),
    torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(1, 4)], layout=torch.jagged), X.cfloat(),
    INDEX.bool(), X.to("meta"), torch.zeros(()), torch.zeros(3, 0), Rope(TABLE, TABLE[:, :2]),
    Rope([1.0], None), Rope(TABLE.to("meta"), TABLE),
]  # fmt: skip
"""Fits no argument of any operator, as one of otherwise good ones."""
NOT_A_TENSOR = [None, 3, -1, 0.5, float("nan"), True, "l2", "auto", b"", Tensor]


def call(name: str, argument: str, value: object) -> str:
    """The message of the error."""
    operator, arguments = CALLS[name]
    with pytest.raises((TypeError, ValueError)) as caught:
        operator(**{**arguments, argument: value})
    return str(caught.value)


def test_the_examples_fit() -> None:
    for operator, arguments in CALLS.values():
        operator(**arguments)


@pytest.mark.parametrize(("name", "argument"), EVERY)
def test_what_fits_nowhere(name: str, argument: str) -> None:
    for value in NEVER:
        message = call(name, argument, value)
        assert message.startswith(name.partition(",")[0] + ": ") and argument in message, message
        assert "\n" not in message


OPTIONAL = ("weight", "implementation", "q_norm", "k_norm", "rope", "scale", "cu_seqlens")
TENSORS = [
    (name, argument) for name, argument in EVERY if isinstance(CALLS[name][1][argument], (Tensor, Rope))
]


@pytest.mark.parametrize(("name", "argument"), TENSORS)
def test_what_is_no_tensor(name: str, argument: str) -> None:
    for value in NOT_A_TENSOR:
        if value is not None or argument not in OPTIONAL:
            message = call(name, argument, value)
            assert argument in message and type(value).__name__ in message and "\n" not in message


@given(
    at=st.sampled_from([pair for pair in TENSORS if pair[1] not in ("rope", "cu_seqlens")]),
    shape=st.lists(st.integers(0, 6), max_size=4).map(tuple),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]),
    device=st.sampled_from(["cpu", "meta"]),
)
def test_other_tensors_fit_or_are_named_with_both_shapes(
    at: tuple[str, str], shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> None:
    name, argument = at
    operator, arguments = CALLS[name]
    given = torch.ones(shape, dtype=dtype, device=device)
    try:
        operator(**{**arguments, argument: given})
    except (TypeError, ValueError) as error:
        assert argument in str(error) and str(shape) in str(error) and "\n" not in str(error)
    else:
        assert device == "cpu", "an operator of tensors of two devices"


@pytest.mark.parametrize(
    ("name", "argument", "value", "message"),
    [
        ("nearest_code", "vectors", X.numpy(), r"got numpy\.ndarray \(3, 4\)"),
        ("nearest_code", "vectors", [1.0], "vectors must be a dense torch.Tensor, got list"),
        (
            "nearest_code",
            "implementation",
            "cpu",
            r"implementation must be a search_choice\(\.\.\.\), got str",
        ),
        ("nearest_code", "metric", None, "metric must be one of l2, cosine, weighted, got NoneType"),
        ("nearest_code", "exact", 1, "exact must be True or False, got int"),
        ("code_statistics", "codes", 2.0, "codes must be a number of codes, got float"),
        ("code_statistics", "codes", 2**70, f"codes must be at most 2147483647, got {2**70}"),
        ("vit_attention", "rope", (TABLE, TABLE), r"rope must be Rope\(cos, sin\), got tuple"),
        ("vit_attention", "scale", "1", "scale must be a number, got str"),
        ("vit_attention", "return_lse", 1, "return_lse must be True or False, got int"),
        ("vit_attention", "implementation", "sdpa", r"must be an attention_choice\(\.\.\.\), got str"),
        (
            "vit_attention",
            "implementation",
            search_choice(),
            "got vtp_core.ops.nearest_code_choice.SearchChoice",
        ),
        (
            "vit_attention, packed",
            "cu_seqlens",
            torch.tensor([0, 5]).to("meta"),
            "cu_seqlens must be .* on meta",
        ),
        ("vit_attention, packed", "cu_seqlens", torch.tensor([[0, 5]]), r"cu_seqlens must be 1-D.*\(1, 2\)"),
    ],
)
def test_the_next_step_is_named(name: str, argument: str, value: object, message: str) -> None:
    found = call(name, argument, value)
    assert re.search(message, found), found


def test_bounds_without_values() -> None:
    p = P.to("meta")
    with pytest.raises(ValueError, match="cu_seqlens has no values to read"):
        vit_attention(p, p, p, cu_seqlens=torch.tensor([0, 5]).to("meta"))


def test_a_choice_is_not_empty() -> None:
    with pytest.raises(ValueError, match="at least one implementation"):
        type(search_choice())(())
