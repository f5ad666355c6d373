"""Compiles what has changed, several files at a time, and links a shared library.

torch's own builder takes one set of flags for all files of a module and needs ninja; here each file has the
flags of its instruction set, and a compiler is all that is needed.
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
    """A compiler refused a file; the message starts with its first error."""


@dataclass(frozen=True)
class Compilation:
    """One file to compile.

    Attributes:
        command: Compiler, flags and source; `-c`, `-o` and the options for dependencies are added.
        output: The object file. Beside it lie `.d`, what it was made of, and `.command`, how.
        version: What the compiler says of itself: another compiler of the same name makes another object.
    """

    command: tuple[str, ...]
    output: Path
    version: str = ""

    @property
    def stamp(self) -> str:
        """How the object is made, as `.command` says it."""
        return f"{shlex.join(self.command)}\n{self.version}"

    def is_fresh(self) -> bool:
        """Whether the object was made by this command from files that have not changed since."""
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
            BuildFailed: The compiler refused the file.
        """
        if self.is_fresh():
            return
        self.output.parent.mkdir(parents=True, exist_ok=True)
        # Two builds may run side by side: each writes names of its own, whole files appear.
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
    """The files that a makefile rule, as compilers write them, names after its colon."""
    _, _, names = rule.replace("\\\n", " ").partition(": ")
    return [name.replace("\\ ", " ") for name in re.findall(r"(?:\\ |\S)+", names)]


def compile_all(compilations: Sequence[Compilation], jobs: int) -> None:
    """Runs the compilations, `jobs` at a time.

    Raises:
        BuildFailed: Of the first one that failed; those under way are finished first.
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
        BuildFailed: It could not be started or failed.
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
    """The C++ compiler: what CXX says, else the first of c++, g++ and clang++ that is there."""
    if named := shlex.split(os.environ.get("CXX", "")):
        return named if shutil.which(named[0]) else None
    return next(([name] for name in ("c++", "g++", "clang++") if shutil.which(name)), None)


def version(compiler: Sequence[str]) -> str:
    """What a compiler says of itself; asked once a build.

    Raises:
        BuildFailed: It does not run.
    """
    return execute([*compiler, "--version"]).strip()


def jobs() -> int:
    """How many files to compile at a time: MAX_JOBS, as for torch's extensions, or the cores at hand."""
    given = os.environ.get("MAX_JOBS", "")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(given) if given.isdigit() else usable)
