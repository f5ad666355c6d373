"""``vtp`` in a process forked from this one: torch is imported already, so that a start costs no seconds."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence

import torch

from vtp_core.cli.main import main

# The autograd engine counts devices at the first backward pass. Fake tensors, in other tests, register
# a GPU that is not there, and an engine that counted it refuses to work in a forked process.
torch.ones(1, requires_grad=True).sum().backward()


class Forked:
    """A running command.

    Args:
        arguments: Those of ``vtp``.
        before: Called in the new process first.

    Attributes:
        pid: Its process.
        text: What it printed, as far as it was read.
    """

    def __init__(self, arguments: Sequence[str], before: Callable[[], object] | None = None) -> None:
        self.text, self._ended = "", False
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(write)
            return
        code = 99
        try:
            os.setsid()
            os.dup2(write, 1)
            os.dup2(write, 2)
            os.closerange(3, 4096)  # those of this process, such as the pipe to whoever reads its output
            sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if before is not None:
                before()
            main(list(arguments), prog_name="vtp")
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def read(self, seconds: float) -> bool:
        """Adds what it prints within some seconds to `text`; whether it may print more."""
        if not select.select([self._read], [], [], seconds)[0]:
            return True
        data = os.read(self._read, 65536)
        self.text += data.decode(errors="replace")
        return bool(data)

    def until(self, word: str, seconds: float = 60.0) -> None:
        """Reads until it has printed `word`."""
        deadline = time.monotonic() + seconds
        while word not in self.text:
            assert self.read(0.05) and time.monotonic() < deadline, f"no {word!r} in:\n{self.text}"

    def send(self, number: int) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def children(self) -> list[int]:
        """Its child processes."""
        with open(f"/proc/{self.pid}/task/{self.pid}/children") as file:
            return [int(pid) for pid in file.read().split()]

    def wait(self, seconds: float = 60.0) -> int:
        """Its exit code, negative for a signal; a process that lives on is killed and an error."""
        deadline = time.monotonic() + seconds
        open_, ended = True, False
        while not ended and time.monotonic() < deadline:
            open_ = self.read(0.02) if open_ else time.sleep(0.02) is not None
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            ended = pid != 0
        if not ended:
            self.kill()
            raise AssertionError(f"it did not end within {seconds} s:\n{self.text}")
        while open_ and select.select([self._read], [], [], 0)[0]:
            open_ = self.read(0)
        self._ended = True
        os.close(self._read)
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        """Ends it and its children, if it has not ended yet."""
        if not self._ended:
            self._ended = True
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._read)
