"""Kernels that plugins bring: found by kind, broken ones passed over, what is missing said once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vtp_core.errors import UsageError
from vtp_core.ops import (
    AttentionChoice,
    AttentionKernel,
    MeasuredCase,
    Ranking,
    SearchCase,
    SearchChoice,
    SearchKernel,
    attention_choice,
    nearest_code,
    search_choice,
)
from vtp_core.ops.installed import installed, offered
from vtp_core.ops.nearest_code_torch import REFERENCE, search
from vtp_core.plugins import Plugins, Register, hookimpl, load_plugins
from vtp_core.recipe.tables.run import KernelsConfig
from vtp_core.run.setup.kernels import choose_kernels


def kernel(name: str, reason: str | None = None, device: str = "cpu") -> SearchKernel:
    return SearchKernel(
        name=name,
        run=search,
        refuses=lambda case: None,
        suits=lambda case: True,
        device=device,
        missing=lambda: reason,
    )


def registering(**targets: object) -> Callable[[Register], None]:
    @hookimpl
    def register_kernels(register: Register) -> None:
        for name, target in targets.items():
            register(name, target)

    return register_kernels


def plugins_with(**targets: object) -> Plugins:
    plugins = Plugins()
    plugins.add(SimpleNamespace(vtp_api=2, register_kernels=registering(**targets)), "foo")
    return plugins


def test_kernels_are_found_by_kind() -> None:
    attention = AttentionKernel(
        name="foo.other", run=lambda *_: None, refuses=lambda case: None, suits=lambda case: True
    )
    found = kernel("foo.fast")
    plugins = plugins_with(fast=found, other=attention)
    assert offered(plugins, SearchKernel) == [found]
    assert offered(plugins, AttentionKernel) == [attention]


def test_names_carry_the_plugins_unless_they_are_the_cores() -> None:
    mine = kernel("fast")
    assert [item.name for item in offered(plugins_with(any_name=mine), SearchKernel)] == ["foo.fast"]
    plugins = Plugins()
    module = SimpleNamespace(vtp_api=2, register_kernels=registering(any_name=mine))
    plugins.add(module, "native", distribution="vtp-core")
    assert offered(plugins, SearchKernel) == [mine]


def test_what_is_broken_or_missing_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    absent, abroad = kernel("foo.absent", "is not built (test)"), kernel("foo.gpu", "no driver", "cuda")
    plugins = plugins_with(absent=absent, abroad=abroad, broken="vtp_no_such.module:KERNEL", zero=search)
    with caplog.at_level(logging.WARNING):
        assert offered(plugins, SearchKernel) == [abroad, absent]
        assert offered(plugins, SearchKernel) == [abroad, absent]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert said[0].startswith('kernel "foo.broken" of foo')
    assert said[1].endswith("nearest_code_torch:search is not a vtp_core.ops.choice.Kernel")
    assert said[2] == "kernel foo.absent: is not built (test); slower torch code is used instead"


def test_a_bare_call_takes_what_the_entry_points_bring() -> None:
    assert list(installed(SearchKernel)) == offered(load_plugins(), SearchKernel)
    index, _ = nearest_code(torch.eye(3), torch.eye(3))
    assert index.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("choose", "kind"), [(search_choice, SearchKernel), (attention_choice, AttentionKernel)]
)
def test_a_choice_knows_the_names_of_what_is_installed(choose: Any, kind: Any) -> None:
    assert installed(kind)
    for one in installed(kind):
        assert choose(one.name) == choose(one.name, installed(kind))
        with pytest.raises(UsageError, match="unknown; known: auto"):
            choose(one.name, [])


class Quantizer(nn.Module):
    """A module of a recipe that searches."""

    def use_nearest_code(self, implementation: object) -> None:
        self.implementation = implementation


CPU = torch.device("cpu")


def test_the_recipe_chooses() -> None:
    plugins, module = plugins_with(fast=kernel("foo.fast")), Quantizer()
    choose_kernels(KernelsConfig(nearest_code="foo.fast"), plugins, CPU).use_in([module, nn.Identity()])
    assert module.implementation == search_choice("foo.fast", offered(plugins, SearchKernel))
    choose_kernels(KernelsConfig(), plugins, CPU).use_in([module])
    assert module.implementation == search_choice("auto", [*offered(plugins, SearchKernel)])


def with_ranking(plugins: Plugins, **targets: object) -> Plugins:
    @hookimpl
    def register_rankings(register: Register) -> None:
        for name, target in targets.items():
            register(name, target)

    plugins.add(SimpleNamespace(vtp_api=2, register_rankings=register_rankings), "ranks")
    return plugins


def test_auto_follows_what_a_plugin_measured_on_the_device(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[tuple[type, torch.device]] = []

    def measured(choice: Any, device: torch.device) -> Ranking | None:
        asked.append((choice, device))
        case = MeasuredCase(kind=(), sizes=(), names=("reference",))
        return Ranking(device=device.type, cases=(case,)) if choice is SearchChoice else None

    plugins = with_ranking(
        plugins_with(fast=kernel("foo.fast")),
        a_broken="vtp_no_such.module:ranking",
        b_silent=lambda choice, device: None,
        c_measured=measured,
    )
    case = SearchCase(device="cpu", dtype=torch.float32, rows=1, codes=1, width=1, metric="l2", exact=True)
    assert choose_kernels(KernelsConfig(), plugins, CPU).nearest_code.pick(case).name == "reference"
    assert asked == [(AttentionChoice, CPU), (SearchChoice, CPU)]
    assert "vtp_no_such" in caplog.text
    named = choose_kernels(KernelsConfig(nearest_code="foo.fast"), plugins, CPU)
    assert named.nearest_code.pick(case).name == "foo.fast"


@pytest.mark.parametrize("table", [{"nearest_code": "fast"}, {"attention": "fast"}])
def test_a_name_that_no_plugin_offers_is_an_error(table: dict[str, str]) -> None:
    with pytest.raises(
        UsageError, match=rf'\[kernels\] {next(iter(table))} = "fast": unknown; known: auto, '
    ):
        choose_kernels(KernelsConfig(**table), plugins_with(), CPU)


def test_the_reference_serves_everywhere() -> None:
    assert search_choice().kernels[-1] is REFERENCE


def test_multiply_adds_are_counted() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    def run(x: Tensor) -> None:
        nearest_code(x, torch.randn(7, 5))

    with FlopCounterMode(display=False) as counter:
        run(torch.randn(2, 3, 5))
    assert counter.get_total_flops() == 2 * 6 * 7 * 5
