"""Compiles changed sources in parallel and links a shared library.

The builder of torch takes one set of flags for all files of a module and needs ninja. Here each file has the
flags of its instruction set, and only a compiler is needed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path


class BuildFailed(Exception):
    """A compiler or linker failed; the message starts with its first error."""


@dataclass(frozen=True)
class Compilation:
    """One file to compile.

    Attributes:
        command: Compiler, flags and source; `-c`, `-o` and the options for dependencies are added.
        output: The object file. Beside it: `.d` with its dependencies and `.command` with its `stamp`.
        version: The compiler's version text; another version means another object.
    """

    command: tuple[str, ...]
    output: Path
    version: str = ""

    @property
    def stamp(self) -> str:
        """Command and compiler version, the content of `.command`."""
        return f"{shlex.join(self.command)}\n{self.version}"

    def is_fresh(self) -> bool:
        """Whether the object comes from this command and from files that have not changed since."""
        made, recipe = self.output.with_suffix(".d"), self.output.with_suffix(".command")
        if not (self.output.is_file() and made.is_file() and recipe.is_file()):
            return False
        if recipe.read_text() != self.stamp:
            return False
        time = self.output.stat().st_mtime_ns
        paths = [Path(name) for name in dependencies(made.read_text())]
        return all(path.is_file() and path.stat().st_mtime_ns < time for path in paths)

    def run(self) -> None:
        """Compiles, unless the object is fresh.

        Raises:
            BuildFailed: The compiler failed.
        """
        if self.is_fresh():
            return
        self.output.parent.mkdir(parents=True, exist_ok=True)
        # Builds may run in parallel: each writes temporary names of its own and renames whole files.
        own = self.output.with_name(f"{os.getpid()}.{self.output.name}")
        made = own.with_suffix(".d")
        try:
            execute([*self.command, "-MMD", "-MF", str(made), "-c", "-o", str(own)])
            own.replace(self.output)
            made.replace(self.output.with_suffix(".d"))
        finally:
            own.unlink(missing_ok=True)
            made.unlink(missing_ok=True)
        self.output.with_suffix(".command").write_text(self.stamp)


def dependencies(rule: str) -> list[str]:
    """The prerequisites of a makefile rule as compilers write it."""
    _, _, names = rule.replace("\\\n", " ").partition(": ")
    return [name.replace("\\ ", " ") for name in re.findall(r"(?:\\ |\S)+", names)]


def compile_all(compilations: Sequence[Compilation], jobs: int) -> None:
    """Runs the compilations, `jobs` at a time.

    Raises:
        BuildFailed: One failed, raised after all have ended.
    """
    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(each.run) for each in compilations]:
            future.result()


def link(command: Sequence[str], output: Path) -> None:
    """Links to a temporary name and renames, so that a process that has the old library open keeps it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f"{output.name}.{os.getpid()}")
    try:
        execute([*command, "-o", str(partial)])
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def execute(command: Sequence[str]) -> str:
    """Runs a compiler and returns what it prints.

    Raises:
        BuildFailed: The compiler did not start, or failed.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise BuildFailed(f"{command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        text = (done.stderr + done.stdout).strip()
        first = next((line for line in text.splitlines() if "error" in line), text.rpartition("\n")[2])
        raise BuildFailed(f"{first or command[0] + ' failed'}\n{shlex.join(command)}\n{text}")
    return done.stdout


def cxx() -> list[str] | None:
    """The C++ compiler: CXX, else the first of c++, g++ and clang++ on the path, else None."""
    if named := shlex.split(os.environ.get("CXX", "")):
        return named if shutil.which(named[0]) else None
    return next(([name] for name in ("c++", "g++", "clang++") if shutil.which(name)), None)


def version(compiler: Sequence[str]) -> str:
    """Version text of a compiler; run once per build.

    Raises:
        BuildFailed: It does not run.
    """
    return execute([*compiler, "--version"]).strip()


def jobs() -> int:
    """Parallel compilations: MAX_JOBS, as for torch's extensions, else the usable cores."""
    given = os.environ.get("MAX_JOBS", "")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(given) if given.isdigit() else usable)
