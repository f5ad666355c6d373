from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from vtp_plugins.bench import peak
from vtp_plugins.bench.case import CaseError, compare, load, names, shapes
from vtp_plugins.bench.cases import attention
from vtp_plugins.bench.command import CASE_NAMES
from vtp_plugins.bench.config import BenchOptions
from vtp_plugins.bench.gpu_limits import SHEETS, attention_limit, search_limit, sheet_of

SMALL = {
    "nearest_code": ("70x33x7", "5x200x1"),
    "vq_step": ("64x16x8",),
    "attention": (
        "forward:1x2x9x16",
        "backward+norm+rope:2x1x17x32",
        "both:2x16:2x9+3x4",
        "both+norm:1x3x5x16",
    ),
}


def test_the_command_offers_the_cases_of_the_package() -> None:
    assert sorted(CASE_NAMES) == names()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in SMALL for shape in SMALL[name]])
def test_variants_agree_on_small_shapes(name: str, shape: str, precision: str) -> None:
    options = BenchOptions(precision="bfloat16" if precision == "bfloat16" else "float32", peers=False)
    compare(load(name, shape, options))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in SMALL for shape in SMALL[name]])
def test_peers_agree_on_small_shapes(name: str, shape: str) -> None:
    case = load(name, shape, BenchOptions())
    assert len(case.variants) > 2 or name == "vq_step"
    compare(case)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["encode", "decode"])
def test_a_tokenizer_computes_the_same_with_every_variant(name: str) -> None:
    case = load(name, "vtp_s:1x64", BenchOptions())
    assert case.rows == 1 and list(case.variants)[-2:] == ["SDPA", "SDPA, torch.compile"]
    compare(case)


@pytest.mark.slow
def test_a_new_process_builds_the_same_variants() -> None:
    """As the child does that counts memory: it has loaded no kernels before."""
    build = "from vtp_plugins.bench.case import load; from vtp_plugins.bench.config import BenchOptions"
    case = "load('nearest_code', '8x5x3', BenchOptions(peers=False))"
    show = f"import json; print(json.dumps(list({case}.variants)))"
    command = [sys.executable, "-c", f"{build}; {show}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    load("nearest_code", "8x5x3", BenchOptions(peers=False)).variants["vtp"]()
    here = load("nearest_code", "8x5x3", BenchOptions(peers=False))
    assert json.loads(done.stdout) == list(here.variants)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_quantiser_step_moves_the_codes_a_little_in_float32(precision: str) -> None:
    options = BenchOptions(precision="bfloat16" if precision == "bfloat16" else "float32", peers=False)
    call = load("vq_step", "64x16x8", options).variants["vtp"]
    first, last = call(), call()
    for _ in range(200):
        last = call()
    assert isinstance(first, torch.Tensor) and isinstance(last, torch.Tensor)
    assert first.dtype == last.dtype == torch.float32
    assert not torch.equal(first, last)
    torch.testing.assert_close(last, first, rtol=0.01, atol=0.01)


def test_the_meters_of_a_quantiser_step_are_timed_in_place() -> None:
    """A clock that counts its readings: two for the report in `forward`, two for the update."""
    readings: list[float] = []

    def clock() -> float:
        readings.append(len(readings))
        return readings[-1]

    part = load("vq_step", "64x16x8", BenchOptions(peers=False)).parts["meters"]
    assert part(clock) == 2 and len(readings) == 4
    assert part(clock) == 2 and len(readings) == 8


def test_a_search_that_misses_is_found_out() -> None:
    case = load("nearest_code", "40x20x4", BenchOptions(peers=False))
    right = case.variants["vtp"]()
    assert isinstance(right, torch.Tensor)
    complaint = case.check((right + 1) % 20, right)
    assert complaint is not None and "a distance differs by" in complaint


@pytest.mark.parametrize("name", names())
def test_the_default_shapes_of_every_case_can_be_read(name: str) -> None:
    if name == "attention":
        assert [attention.read(shape).width for shape in shapes(name)] == [64] * len(shapes(name))
    assert all(shapes(name)) and len(set(shapes(name))) == len(shapes(name))


def test_a_packed_shape_is_read_as_its_sequences() -> None:
    asked = attention.read("both+rope:12x64:2x257+3x37")
    assert asked.lengths == (257, 257, 37, 37, 37) and asked.heads == 12 and asked.rope and not asked.norm


@pytest.mark.parametrize(
    ("name", "shape"),
    [("nearest_code", "4096x1024"), ("attention", "1x2x3x4"), ("attention", "both:4"), ("encode", "8x256")],
)
def test_a_shape_that_cannot_be_read_is_one_line_with_the_format(name: str, shape: str) -> None:
    with pytest.raises(CaseError, match=rf"^{name}: shape '{shape}': .+; write it as "):
        load(name, shape, BenchOptions())


def test_work_is_counted_as_two_operations_a_multiply_add() -> None:
    search = load("nearest_code", "8x5x3", BenchOptions(peers=False))
    assert search.flop == 2 * 8 * 5 * 3
    pairs = 2 * (9 * 9) + 2 * (2 * 4 * 4)
    packed = load("attention", "both:2x16:1x9+2x4", BenchOptions(peers=False))
    assert packed.flop == 14 * 16 * pairs


@pytest.mark.parametrize(
    ("shape", "microseconds"), [((65536, 16384, 64), 139), ((65536, 8192, 8), 44), ((65536, 4096, 768), 417)]
)
def test_the_paper_limit_of_a_search_is_the_slowest_of_its_parts(
    shape: tuple[int, int, int], microseconds: float
) -> None:
    for name in ("NVIDIA H100 80GB HBM3", "NVIDIA H200"):
        limit = search_limit(SHEETS[name], *shape)
        assert limit is not None and limit * 1e6 == pytest.approx(microseconds, rel=0.02)


def test_the_paper_limit_of_attention_is_the_slowest_of_its_parts() -> None:
    sheet = SHEETS["NVIDIA H200"]
    assert attention_limit(sheet, 989e12, 1, 1) == pytest.approx(1)
    assert attention_limit(sheet, 989e12, 1, 1, "float32") == pytest.approx(6, rel=0.01)
    assert attention_limit(sheet, 1, 16 * 132 * 1.83e9, 1) == pytest.approx(1)
    assert attention_limit(sheet, 1, 1, 4.8e12) == pytest.approx(1)


def test_a_device_without_a_sheet_has_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sheet_of("cpu") is None
    names = {"cuda": "NVIDIA H200", "cuda:1": "NVIDIA GeForce"}
    monkeypatch.setattr(torch.cuda, "get_device_name", names.__getitem__)
    assert sheet_of("cuda") is SHEETS["NVIDIA H200"] and sheet_of("cuda:1") is None
    assert search_limit(None, 1, 1, 1) is None and attention_limit(None, 1, 1, 1) is None


def test_the_peak_of_a_device_is_that_of_its_products(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10_000))
    monkeypatch.setattr(peak, "clock_for", lambda threads, device: (lambda: next(ticks) * 0.5, ""))
    rate = 2 * 16**3 / 0.5
    assert peak.measure_device_peaks("cpu", side=16) == {"float32": rate, "bfloat16": rate}
