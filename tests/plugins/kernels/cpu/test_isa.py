"""The choice of an instruction set, against what Linux says about the processor."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from vtp_core.errors import UsageError
from vtp_core.ops import attention_choice, nearest_code, search_choice, vit_attention
from vtp_plugins.kernels.cpu import attention, search
from vtp_plugins.kernels.native.loading import why_missing

RISING = ("portable", "avx2", "avx512", "avx512bf16")
# As Linux spells them in /proc/cpuinfo.
NEEDED = {
    "portable": set(),
    "avx2": {"avx2", "fma", "f16c"},
    "avx512": {"avx512f", "avx512bw", "avx512vl", "avx512dq"},
    "avx512bf16": {"avx512_bf16"},
}

pytestmark = pytest.mark.skipif(why_missing("_C_cpu") is not None, reason=f"_C_cpu {why_missing('_C_cpu')}")


@pytest.fixture
def best(monkeypatch: pytest.MonkeyPatch) -> str:
    """The best that this processor has."""
    monkeypatch.delenv("VTP_CPU_ISA", raising=False)
    chosen: str = torch.ops.vtp_cpu.isa()
    return chosen


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="no /proc/cpuinfo")
def test_the_best_is_what_the_processor_has(best: str) -> None:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    expected = "portable"
    for isa in RISING if platform.machine() == "x86_64" else ():
        if not NEEDED[isa] <= flags:
            break
        expected = isa
    assert best == expected


def test_the_variable_names_any_up_to_the_best_and_is_read_on_every_call(
    best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for isa in RISING[: RISING.index(best) + 1]:
        monkeypatch.setenv("VTP_CPU_ISA", isa)
        assert torch.ops.vtp_cpu.isa() == isa
    monkeypatch.setenv("VTP_CPU_ISA", "")
    assert torch.ops.vtp_cpu.isa() == best


@pytest.mark.parametrize("value", ["sse2", "AVX2", "avx512 "])
@pytest.mark.usefixtures("best")
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("VTP_CPU_ISA", value)
    expected = f"VTP_CPU_ISA={value}: unknown; use portable, avx2, avx512 or avx512bf16"
    with pytest.raises(RuntimeError, match=expected):
        torch.ops.vtp_cpu.isa()


@pytest.mark.parametrize("name", ["auto", "cpu"])
@pytest.mark.usefixtures("best")
def test_operators_say_so_as_an_error_of_use(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("VTP_CPU_ISA", "sse2")
    x, q = torch.ones(2, 4), torch.ones(1, 1, 2, 4)
    with pytest.raises(
        UsageError, match=r"VTP_CPU_ISA=sse2: unknown; use portable, avx2, avx512 or avx512bf16$"
    ):
        nearest_code(x, x, implementation=search_choice(name, [search.KERNEL]))
    with pytest.raises(
        UsageError, match=r"VTP_CPU_ISA=sse2: unknown; use portable, avx2, avx512 or avx512bf16$"
    ):
        vit_attention(q, q, q, implementation=attention_choice(name, [attention.KERNEL]))


def test_one_that_the_processor_lacks_is_an_error(best: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if best == RISING[-1]:
        pytest.skip("this processor has them all")
    monkeypatch.setenv("VTP_CPU_ISA", RISING[-1])
    with pytest.raises(RuntimeError, match=f"this CPU can't run it; its best is {best}"):
        torch.ops.vtp_cpu.isa()
