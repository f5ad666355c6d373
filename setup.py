"""Finds the packages and builds the native kernels in csrc/, if it can. Metadata is in pyproject.toml.

`VTP_BUILD_EXT=auto` (the default) builds what it can: `_C_cpu` when a C++ compiler is there and torch can be
found (`pip install --no-build-isolation`), `_C_cuda` when nvcc is there too. What can't be built or fails to
compile is left out, and `vtp doctor` says why. `1` makes a missing `_C_cpu` an error; `0` never builds.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))

from vtp_plugins.kernels.native import build as native  # noqa: E402
from vtp_plugins.kernels.native.compiler import BuildFailed  # noqa: E402
from vtp_plugins.kernels.native.sources import MODULES  # noqa: E402

FOLDER = "vtp_plugins/kernels"
MODE = os.environ.get("VTP_BUILD_EXT", "auto")
if MODE not in ("auto", "1", "0"):
    raise SystemExit(f"VTP_BUILD_EXT={MODE}: use one of auto, 1, 0")
REASONS = {name: "VTP_BUILD_EXT=0" if MODE == "0" else native.obstacle(name) for name in MODULES}
if MODE == "1" and REASONS["_C_cpu"]:
    raise SystemExit(f"VTP_BUILD_EXT=1, but {REASONS['_C_cpu']}")
POSSIBLE = [name for name in MODULES if REASONS[name] is None]
for name in MODULES:
    print(f"vtp-core: {name} {'is not built: ' + REASONS[name] if REASONS[name] else 'will be built'}")


def record(command, inplace):
    native.record(ROOT / FOLDER if inplace else Path(command.build_lib, FOLDER), REASONS)


class Record(build_py):
    """Also records what is not going to be built."""

    def run(self):
        super().run()
        record(self, self.editable_mode)


class Build(build_ext):
    """Compiles by the project's own rules: flags by file name, in parallel, only what changed."""

    def run(self):
        inplace = self.inplace
        super().run()
        record(self, inplace)

    def build_extension(self, ext):
        module = ext.name.rpartition(".")[2]
        try:
            native.build(module, Path(self.get_ext_fullpath(ext.name)), ROOT / "build/native")
        except BuildFailed as error:
            if MODE == "1":
                raise SystemExit(f"VTP_BUILD_EXT=1, but {error}") from error
            print(f"vtp-core: {module} is not built: {error}", file=sys.stderr)
            REASONS[module] = str(error).partition("\n")[0]


setup(
    packages=[
        *find_packages(include=["vtp_core*", "vtp_plugins*"]),
        "vtp_recipes",
        "vtp_plugins.kernels.csrc",
    ],
    package_dir={"vtp_recipes": "recipes", "vtp_plugins.kernels.csrc": "csrc"},
    ext_modules=[
        Extension(f"vtp_plugins.kernels.{name}", [], py_limited_api=True, optional=True) for name in POSSIBLE
    ],
    cmdclass={"build_ext": Build, "build_py": Record},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if POSSIBLE else {},
)
