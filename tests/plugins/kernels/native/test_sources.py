from __future__ import annotations

from pathlib import Path

import pytest

from vtp_plugins.kernels.native import sources as native

REPOSITORY = Path(__file__).parents[4]


@pytest.mark.parametrize(
    ("name", "present", "absent"),
    [
        ("module.cpp", set(), {"-mavx2", "-mavx512f"}),
        ("search_portable.cpp", set(), {"-mavx2", "-mavx512f"}),
        ("avx2.cpp", set(), {"-mavx2"}),
        ("search_avx2.cpp", {"-mavx2", "-mfma", "-mf16c"}, {"-mavx512f"}),
        ("search_avx512.cpp", {"-mavx2", "-mfma", "-mavx512f", "-mavx512vl"}, {"-mavx512bf16"}),
        ("search_avx512bf16.cpp", {"-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512bf16"}, set()),
    ],
)
def test_the_name_of_a_file_says_its_flags(name: str, present: set[str], absent: set[str]) -> None:
    flags = set(native.isa_flags(Path("csrc/cpu") / name))
    assert present <= flags and not absent & flags


def test_no_flag_asks_for_the_machine_at_hand_or_for_loose_arithmetic() -> None:
    flags = {
        *native.CXX_FLAGS,
        *native.NVCC_FLAGS,
        *(flag for row in native.ISA_FLAGS.values() for flag in row),
    }
    assert not [flag for flag in flags if "native" in flag or "fast-math" in flag or "Ofast" in flag]
    assert "-ffp-contract=off" in native.CXX_FLAGS


def test_files_are_found_by_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cpu/module.cpp", "cpu/a_avx2.cpp", "cpu/a.h", "cuda/module.cpp", "cuda/b.cu", "shim/c.cpp"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.setattr(native, "csrc", lambda: tmp_path)
    found = {module: [path.name for path in native.sources(module, "x86_64")] for module in native.MODULES}
    assert found == {"_C_cpu": ["a_avx2.cpp", "module.cpp"], "_C_cuda": ["b.cu", "module.cpp"]}
    assert [path.name for path in native.sources("_C_cpu", "aarch64")] == ["module.cpp"]


def test_the_sources_are_those_of_the_repository() -> None:
    assert native.csrc() == REPOSITORY / "csrc"
    assert "module.cpp" in [path.name for path in native.sources("_C_cpu")]
