"""Starts the ranks of a run on this machine. Imports no torch."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from vtp_core.errors import DistributedError, Stopped, VtpError
from vtp_core.run.processes.rank import EXIT_CODES, LAUNCHER
from vtp_core.run.processes.signals import SAME_SECONDS, STOP_SIGNALS

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

SHUTDOWN_SECONDS = 120
"""Time that ranks have to save their state after a stop signal before they are killed."""


def start_ranks(nproc: int, arguments: Sequence[str]) -> int:
    """Runs ``vtp ARGUMENTS`` as `nproc` ranks, as torchrun does, to their end.

    Args:
        nproc: Ranks on this machine.
        arguments: The command line after ``vtp``.

    Returns:
        The exit code: 0, or that of a failed rank if it is one of `vtp`'s; the rank has printed its error.

    Raises:
        DistributedError: A rank died without an error message.
        Stopped: A signal ended the ranks before they could say anything.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Its table of failed ranks says less than the error line of the rank.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ[LAUNCHER] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // nproc, 1)))
    # Not by torchrun's command line, which would read our --nproc as its own option.
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        signals_to_handle="SIGQUIT",  # the others are handled below: equal ones within seconds are one
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    with ExitStack() as stack:
        codes = stack.enter_context(tempfile.TemporaryDirectory(prefix="vtp-ranks-"))
        os.environ[EXIT_CODES] = codes
        stack.enter_context(_raising_once(SignalException))
        try:
            elastic_launch(config, sys.executable)("-m", "vtp_core", *arguments)
        except SignalException as stopped:
            return _code_after_signal(stopped.sigval, nproc, Path(codes))
        except ChildFailedError as failed:
            return _code_of(failed.failures)
    return 0


@contextmanager
def _raising_once(kind: Callable[..., Exception]) -> Iterator[None]:
    """Stop signals raise torch's SignalException; equal ones within seconds are one."""
    last: list[tuple[int, float]] = []

    def receive(number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if last and last[0][0] == number and now - last[0][1] < SAME_SECONDS:
            return
        last[:] = [(number, now)]
        raise kind(f"got signal {number}", sigval=signal.Signals(number))

    before = {number: signal.signal(number, receive) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _code_after_signal(number: signal.Signals, nproc: int, folder: Path) -> int:
    """The exit code of ranks that ended after a signal: what they noted, not what was asked of them."""
    codes = {}
    for rank in range(nproc):
        try:
            codes[rank] = int((folder / str(rank)).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            codes[rank] = -signal.SIGTERM  # wrote no code: it ended during its start or by SIGKILL
    failed = {rank: code for rank, code in codes.items() if code != 0}
    if not failed:
        return 0
    code = min(failed.values(), key=_consequence)
    if code >= 0:
        return code
    raise Stopped(f"stopped by {number.name}: the ranks ended before they could save", number=number)


def _consequence(code: int) -> int:
    """Order of exit codes: that of a rank which lost another, or was stopped because of it, comes last."""
    return {-signal.SIGTERM: 2, DistributedError.exit_code: 1, 1: 1}.get(code, 0)


def _code_of(failures: Mapping[int, ProcessFailure]) -> int:
    rank, failure = min(
        failures.items(), key=lambda item: (_consequence(item[1].exitcode), item[1].timestamp)
    )
    stopped = {128 + number for number in STOP_SIGNALS}
    if failure.exitcode in {1, *stopped, *(kind.exit_code for kind in VtpError.__subclasses__())}:
        return int(failure.exitcode)
    how = f"exit code {failure.exitcode}"
    if failure.exitcode < 0:
        how = f"signal {signal.Signals(-failure.exitcode).name}"
    raise DistributedError(
        f"rank {rank} died ({how}) and the others were stopped; SIGKILL usually means that memory "
        "ran out; continue with --resume"
    )
