"""Starts the ranks of a run on this machine. Imports no torch."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

from vtp_core.errors import DistributedError, Preempted, VtpError

SHUTDOWN_SECONDS = 120
"""Time that ranks have to save their state after a stop signal before they are killed."""


def launched_ranks() -> int | None:
    """Number of ranks that torchrun started, or None if it did not start this process."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ and "WORLD_SIZE" in os.environ else None


def start_ranks(nproc: int, arguments: Sequence[str]) -> int:
    """Runs ``vtp ARGUMENTS`` as `nproc` ranks, as torchrun does, to their end.

    Args:
        nproc: Ranks on this machine.
        arguments: The command line after ``vtp``.

    Returns:
        The exit code: 0, or that of a failed rank if it is one of `vtp`'s; the rank has printed its error.

    Raises:
        DistributedError: A rank died without an error message.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Its table of failed ranks says less than the error line of the rank.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
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
        signals_to_handle="SIGTERM,SIGINT,SIGUSR1",
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "vtp_core", *arguments)
    except SignalException:
        return Preempted.exit_code  # the ranks got the signal too, and have saved
    except ChildFailedError as error:
        # The error of a rank that lost another, or was stopped because of it, is a consequence.
        order = {-signal.SIGTERM: 2, DistributedError.exit_code: 1, 1: 1}
        failures = sorted(
            error.failures.items(), key=lambda item: (order.get(item[1].exitcode, 0), item[1].timestamp)
        )
        rank, failure = failures[0]
        if failure.exitcode in {1, *(kind.exit_code for kind in VtpError.__subclasses__())}:
            return int(failure.exitcode)
        how = f"exit code {failure.exitcode}"
        if failure.exitcode < 0:
            how = f"signal {signal.Signals(-failure.exitcode).name}"
        raise DistributedError(
            f"rank {rank} died ({how}) and the others were stopped; SIGKILL usually means that memory "
            "ran out; continue with --resume"
        ) from None
    return 0
