"""The search for a CUDA toolkit, among folders made for the test; nothing here needs nvcc."""

from __future__ import annotations

from pathlib import Path

import pytest

from vtp_plugins.kernels.native import toolkit as cuda
from vtp_plugins.kernels.native.toolkit import Toolkit

NVCC = """#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release {version}, V{version}.88" ;;
  --list-gpu-code) printf 'sm_75\\nsm_80\\nsm_90\\nsm_100\\n' ;;
  --dryrun) echo '#$ TOP={top}/bin/..' >&2 ;;
esac
"""


def make_toolkit(root: Path, version: str = "13.0", include: str = "include", lib: str = "lib64") -> Path:
    for folder in ("bin", include, lib):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / include / "cuda_runtime.h").touch()
    (root / lib / "libcudart.so.13").touch()
    executable(root / "bin/nvcc", NVCC.format(version=version, top=root))
    return root


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    real = cuda.candidates
    monkeypatch.setattr(
        cuda, "candidates", lambda: (path for path in real() if path.is_relative_to(tmp_path))
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")


def found() -> Toolkit:
    kit = cuda.find()
    assert isinstance(kit, Toolkit), kit
    return kit


def test_the_folder_that_cuda_home_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_toolkit(
        tmp_path / "cuda", include="targets/x86_64-linux/include", lib="targets/x86_64-linux/lib"
    )
    monkeypatch.setenv("CUDA_HOME", str(root))
    kit = found()
    assert (kit.root, kit.version, kit.known) == (root, "13.0", ("7.5", "8.0", "9.0", "10.0"))
    assert kit.include == root / "targets/x86_64-linux/include"
    assert kit.runtime == root / "targets/x86_64-linux/lib/libcudart.so.13"


def test_a_wrapper_on_path_leads_to_the_toolkit_behind_it(tmp_path: Path) -> None:
    root = make_toolkit(tmp_path / "far/cuda-13")
    executable(tmp_path / "path/nvcc", f'#!/bin/sh\nexec {root}/bin/nvcc "$@"\n')
    assert found().root == root


def test_a_link_on_path_leads_to_the_toolkit_behind_it(tmp_path: Path) -> None:
    root = make_toolkit(tmp_path / "far/cuda-13")
    (tmp_path / "path").mkdir()
    (tmp_path / "path/nvcc").symlink_to(root / "bin/nvcc")
    assert found().root == root


def test_a_wrong_cuda_home_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "wrong"
    executable(wrong / "bin/nvcc", NVCC.format(version="13.0", top=wrong))
    monkeypatch.setenv("CUDA_HOME", str(wrong))
    reason = cuda.find()
    assert reason == f"no CUDA toolkit with nvcc, cuda_runtime.h and libcudart.so in {wrong}"
    root = make_toolkit(tmp_path / "right")
    monkeypatch.setenv("CUDA_PATH", str(root))
    assert found().root == root


def test_an_nvcc_that_does_not_work_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_toolkit(tmp_path / "cuda")
    executable(root / "bin/nvcc", "#!/bin/sh\nexit 127\n")
    monkeypatch.setenv("CUDA_HOME", str(root))
    assert isinstance(cuda.find(), str)


def test_no_toolkit_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cuda.find() == "no CUDA toolkit with nvcc, cuda_runtime.h and libcudart.so"


@pytest.mark.parametrize(
    ("known", "asked", "expected"),
    [
        ("7.5 8.0 9.0 12.0", "", ["80,sm_80", "90,sm_90", "90,compute_90"]),
        ("7.5 8.0", "", ["80,sm_80", "80,compute_80"]),
        ("8.0", "9.0a", ["90a,sm_90a"]),
        ("8.0", "8.6;10.0+PTX", ["86,sm_86", "100,sm_100", "100,compute_100"]),
        ("8.0", "8.0 9.0", ["80,sm_80", "90,sm_90"]),
    ],
)
def test_flags_of_the_architectures(known: str, asked: str, expected: list[str]) -> None:
    kit = Toolkit(Path("/cuda"), "13.0", tuple(known.split()))
    flags = [f"-gencode=arch=compute_{item.replace(',', ',code=')}" for item in expected]
    assert cuda.architecture_flags(kit, asked) == flags


def test_a_name_instead_of_an_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match='"Hopper" is no architecture'):
        cuda.architecture_flags(Toolkit(Path("/cuda"), "13.0", ("8.0",)), "8.0;Hopper")
