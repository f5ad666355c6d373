"""What a part is given: the device, folders, and commands with a time limit. Imports no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


class PartFailed(Exception):
    """A part that could not do its work; the message is one line.

    Attributes:
        lines: What it found nevertheless, for the report.
    """

    def __init__(self, message: str, lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.lines = list(lines)


@dataclass(kw_only=True)
class Context:
    """One run of the script.

    Attributes:
        device: As torch names it; ``"cpu"`` tries the script itself.
        folder: Where logs and results of commands go.
        deadline: Of the present part, by `time.monotonic`.
        small: Whether to use tiny sizes, which show that it works and nothing else.
        environment: Variables of commands, beside those of this process.
        facts: What `benchmarks.gpu.facts` found out about the device; empty if it failed.
        part: Name of the present part, for the names of logs.
    """

    device: str
    folder: Path
    deadline: float
    small: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    part: str = "start"

    @property
    def left(self) -> float:
        """Seconds until the deadline of the part."""
        return self.deadline - time.monotonic()

    @property
    def log(self) -> Path:
        """File with everything that the commands of the part print."""
        return self.folder / f"{self.part}.log"

    def python(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Runs this Python with arguments; see `run`."""
        return self.run([sys.executable, *arguments], environment)

    def vtp(self, *arguments: str) -> str:
        """Runs a command of the framework; see `run`."""
        return self.python("-m", "vtp_core", *arguments)

    def run(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
        """Runs a command in the repository until it ends, at most until the deadline of the part.

        Args:
            command: Program and arguments.
            environment: Further variables.

        Returns:
            What it printed, errors too.

        Raises:
            PartFailed: It could not be started, took too long or failed.
        """
        name = " ".join(Path(part).name if index == 0 else part for index, part in enumerate(command))[:100]
        variables = {**os.environ, **self.environment, **(environment or {})}
        with self.log.open("a+", encoding="utf-8", errors="replace") as log:
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            start = log.tell()
            try:
                process = subprocess.Popen(
                    command, cwd=REPOSITORY, env=variables, stdout=log, stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise PartFailed(f"{name}: {error.strerror}") from error
            try:
                code: int | None = process.wait(max(self.left, 0.1))
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(process)
            log.seek(start)
            text = log.read()
        if code == 0:
            return text
        last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
        how = "took too long" if code is None else f"ended with exit code {code}"
        raise PartFailed(f"{name}: {how}; its last line: {last[:300]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a command and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
