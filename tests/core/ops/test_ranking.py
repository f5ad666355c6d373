"""Measured orders: the nearest case of its kind decides, and what can't be trusted is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vtp_core.ops import (
    AttentionCase,
    AttentionChoice,
    Ranking,
    SearchCase,
    SearchChoice,
    SearchKernel,
    attention_choice,
    nearest_code,
    search_choice,
    vit_attention,
)
from vtp_core.ops.attention_torch import TORCH_KERNELS
from vtp_core.ops.nearest_code_torch import search

ATTENTION = AttentionChoice.attributes()


def ranking(*rows: tuple[Mapping[str, object], list[str]], device: str = "cpu") -> Ranking:
    cases = [{"case": dict(case), "names": names} for case, names in rows]
    return Ranking.from_data({"device": device, "cases": cases}, ATTENTION | SearchChoice.attributes())


def attended(**changes: Any) -> AttentionCase:
    case = AttentionCase(
        device="cpu", dtype=torch.float32, tokens=256, width=64, packed=False, lse=False, rope=torch.bfloat16
    )
    return replace(case, **changes)


SHORT = ({"dtype": "float32", "packed": False, "tokens": 64, "width": 64}, ["short"])
LONG = ({"dtype": "float32", "packed": False, "tokens": 1024, "width": 64}, ["long", "short"])
PACKED = ({"dtype": "bfloat16", "packed": True, "rope": None, "tokens": 64, "width": 64}, ["packed"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tokens": 1}, ("short",)),
        ({"tokens": 255}, ("short",)),
        ({"tokens": 257}, ("long", "short")),
        ({"tokens": 256}, ("short",)),  # as far from both: the first
        ({"tokens": 10**9}, ("long", "short")),
        ({"tokens": 0}, ("short",)),
        ({"dtype": torch.bfloat16}, ()),
        ({"packed": True}, ()),
        ({"dtype": torch.bfloat16, "packed": True, "rope": None}, ("packed",)),
        ({"dtype": torch.bfloat16, "packed": True}, ()),
        ({"device": "cuda"}, ()),
        ({"lse": True}, ("short",)),  # nothing is said of it
    ],
)
def test_the_nearest_case_of_its_kind_decides(changes: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert ranking(SHORT, LONG, PACKED).names(attended(**changes)) == expected


def test_two_sizes_count_by_their_ratios() -> None:
    found = ranking(
        ({"codes": 1024, "width": 8}, ["narrow"]),
        ({"codes": 1024, "width": 512}, ["wide"]),
        ({"codes": 65536, "width": 8}, ["many"]),
    )
    case = SearchCase(
        device="cpu", dtype=torch.float32, rows=1, codes=4096, width=64, metric="l2", exact=True
    )
    assert found.names(case) == ("narrow",)  # 4 x 8, beside 4 x 8 and 16 x 8: the first of the nearest
    assert found.names(replace(case, width=256)) == ("wide",)
    assert found.names(replace(case, codes=30000)) == ("many",)


WORDS = st.sampled_from(["float32", "bfloat16", "l2", "x"])
CASES = st.dictionaries(
    st.sampled_from(sorted(ATTENTION)), st.one_of(WORDS, st.booleans(), st.none(), st.integers(1, 2**62))
)
ROWS = st.lists(
    st.fixed_dictionaries({"case": CASES, "names": st.lists(st.text(min_size=1, max_size=20))}), max_size=5
)


@given(device=st.text(), rows=ROWS)
def test_data_comes_back(device: str, rows: list[dict[str, object]]) -> None:
    found = Ranking.from_data({"device": device, "cases": rows}, ATTENTION)
    assert Ranking.from_data(found.data(), ATTENTION) == found
    assert found.data()["cases"] == rows or sorted(map(repr, found.data()["cases"])) != sorted(
        map(repr, rows)
    )


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
)


@given(data=st.one_of(JSON, st.fixed_dictionaries({"device": JSON, "cases": st.lists(JSON, max_size=2)})))
def test_anything_else_is_a_value_error(data: object) -> None:
    try:
        assert isinstance(Ranking.from_data(data, ATTENTION), Ranking)
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no table"),
        ({"cases": []}, "no device"),
        ({"device": "cpu", "cases": [{}] * 1001}, "list of cases"),
        ({"device": "cpu", "cases": [{"case": {"__class__": "x"}, "names": []}]}, "no '__class__'"),
        ({"device": "cpu", "cases": [{"case": {"tokens": 0}, "names": []}]}, "tokens of a case is 0"),
        ({"device": "cpu", "cases": [{"case": {"tokens": 1.5}, "names": []}]}, "tokens of a case is a float"),
        ({"device": "cpu", "cases": [{"case": {}, "names": [1]}]}, "list of names"),
        ({"device": "cpu", "cases": [{"case": {}, "names": ["x"] * 101}]}, "list of names"),
        ({"device": "cpu", "cases": [{"case": {}, "names": ["x" * 201]}]}, "list of names"),
    ],
)
def test_refusals_name_what_is_wrong(data: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ranking.from_data(data, ATTENTION)


def kernel(name: str, **changes: Any) -> SearchKernel:
    made = SearchKernel(
        name=name, run=search, refuses=lambda case: None, suits=lambda case: False, device="cpu"
    )
    return replace(made, **changes)


def test_auto_takes_the_fastest_that_can_run() -> None:
    order = ranking(({"dtype": "float32"}, ["lost", "small", "slow", "reference"]))
    lost = kernel("lost", missing=lambda: "is not built")
    small = kernel("small", refuses=lambda case: "is too small" if case.codes > 4 else None)
    choice = search_choice("auto", [kernel("slow"), small, lost], order)
    case = SearchCase(device="cpu", dtype=torch.float32, rows=1, codes=4, width=2, metric="l2", exact=True)
    assert choice.pick(case).name == "small"
    assert choice.pick(replace(case, codes=5)).name == "slow"
    assert choice.pick(replace(case, dtype=torch.float64)).name == "reference", "nothing was measured"
    assert search_choice("small", [small], order).pick(case).name == "small"
    assert search_choice("auto", [small]).pick(case).name == "reference"


def test_the_operator_follows_the_ranking_of_its_choice() -> None:
    called: list[str] = []

    def noting(name: str) -> Any:
        def run(*arguments: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
            called.append(name)
            return search(*arguments, **options)

        return run

    kernels = [kernel("one", run=noting("one")), kernel("two", run=noting("two"))]
    x = torch.randn(3, 2)
    for names in (["one"], ["two", "one"], ["reference"]):
        choice = search_choice("auto", kernels, ranking(({"dtype": "float32"}, names)))
        assert SearchChoice.from_key(choice.key) == choice
        nearest_code(x, x, implementation=choice)
    assert called == ["one", "two"]


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_ranked_choice_compiles_whole(dynamic: bool) -> None:
    torch._dynamo.reset()
    order = ranking(
        ({"dtype": "float32", "tokens": 4, "width": 8}, ["matmul"]),
        ({"dtype": "float32", "tokens": 400, "width": 8}, ["sdpa"]),
        ({"dtype": "bfloat16", "tokens": 4, "width": 8}, ["reference"]),
    )
    choice = attention_choice("auto", [], order)
    compiled = torch.compile(
        lambda q: vit_attention(q, q, q, implementation=choice),
        backend="eager",
        fullgraph=True,
        dynamic=dynamic,
    )
    by_name = {kernel.name: AttentionChoice((kernel,)) for kernel in TORCH_KERNELS}
    for tokens, name in ((3, "matmul"), (7, "matmul"), (300, "sdpa")):
        q = torch.randn(1, 2, tokens, 8)
        assert torch.equal(compiled(q), vit_attention(q, q, q, implementation=by_name[name]))
