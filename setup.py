"""Finds the packages and builds the native kernels in csrc/, if it can. Metadata is in pyproject.toml.

`VTP_BUILD_EXT=auto` (the default) builds when csrc/ has sources, a compiler is there and torch can be
imported (`pip install --no-build-isolation`); otherwise, or if compiling fails, the installation is pure
Python and `vtp doctor` says why. `1` makes a missing or failed build an error; `0` never builds.
"""

import os
import shutil
import sys
import warnings
from pathlib import Path

from setuptools import find_packages, setup

CSRC = Path(__file__).parent / "csrc"
MODES = ("auto", "1", "0")
PYTHON_ABI = "0x030B0000"  # one build serves Python 3.11 and later


def obstacle(sources):
    """Why nothing can be built here, or None."""
    if not sources:
        return "csrc/ has no sources"
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        return "no C++ compiler on PATH"
    try:
        import torch  # noqa: F401
    except ImportError:
        return "torch is not importable while building: use pip install --no-build-isolation"
    return None


def native(mode):
    """Arguments of setup() that build the extension, empty when there is none to build."""
    if mode not in MODES:
        raise SystemExit(f"VTP_BUILD_EXT={mode}: use one of {', '.join(MODES)}")
    sources = sorted(str(path.relative_to(CSRC.parent)) for path in CSRC.rglob("*.cpp"))
    reason = "VTP_BUILD_EXT=0" if mode == "0" else obstacle(sources)
    if reason is not None:
        if mode == "1":
            raise SystemExit(f"VTP_BUILD_EXT=1, but {reason}")
        print(f"vtp-core: pure Python, no native kernels ({reason})")
        return {}

    from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

    class Build(BuildExtension):
        def run(self):
            try:
                super().run()
            except Exception as error:
                if mode == "1":
                    raise
                warnings.warn(f"vtp-core: native kernels not built: {error}", stacklevel=1)
                self.extensions = []

    openmp = ["-fopenmp"] if sys.platform == "linux" else []
    cuda = sorted(str(path.relative_to(CSRC.parent)) for path in CSRC.rglob("*.cu")) if CUDA_HOME else []
    extension = (CUDAExtension if cuda else CppExtension)(
        "vtp_core._native",
        [*sources, *cuda],
        define_macros=[("Py_LIMITED_API", PYTHON_ABI)],
        extra_compile_args={"cxx": ["-O3", *openmp], "nvcc": ["-O3"]},
        extra_link_args=openmp,
        py_limited_api=True,
    )
    options = {"bdist_wheel": {"py_limited_api": "cp311"}}
    return {"ext_modules": [extension], "cmdclass": {"build_ext": Build}, "options": options}


setup(
    packages=[*find_packages(include=["vtp_core*", "vtp_plugins*"]), "vtp_recipes"],
    package_dir={"vtp_recipes": "recipes"},
    **native(os.environ.get("VTP_BUILD_EXT", "auto")),
)
