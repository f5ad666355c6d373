"""Starts the ranks of a run on this machine, and says whether this process is one. Imports no torch."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

from vtp_core.errors import DistributedError, Preempted, VtpError

SHUTDOWN_SECONDS = 120
"""How long ranks that were asked to stop may take to save their state before they are killed."""


def launched_ranks() -> int | None:
    """Number of ranks that torchrun started, or None if it did not start this process."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ and "WORLD_SIZE" in os.environ else None


def start_ranks(nproc: int, arguments: Sequence[str]) -> int:
    """Runs ``vtp ARGUMENTS`` as `nproc` ranks, as torchrun does, to their end.

    Args:
        nproc: Ranks on this machine.
        arguments: The command line after ``vtp``.

    Returns:
        The exit code: 0, or that of a rank that failed, if it is one of ours. The rank has printed why.

    Raises:
        DistributedError: A rank died without a word.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Its own account of a failed rank is a table that says less than the rank's line.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // nproc, 1)))
    # Not through torchrun's own command line: it takes our --nproc for one of its options.
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
        # A rank that lost another one, or was stopped for it, tells less than that other one.
        echoes = {-signal.SIGTERM: 2, DistributedError.exit_code: 1, 1: 1}
        failures = sorted(
            error.failures.items(), key=lambda item: (echoes.get(item[1].exitcode, 0), item[1].timestamp)
        )
        rank, failure = failures[0]
        if failure.exitcode in {1, *(kind.exit_code for kind in VtpError.__subclasses__())}:
            return int(failure.exitcode)
        how = f"exit code {failure.exitcode}"
        if failure.exitcode < 0:
            how = f"signal {signal.Signals(-failure.exitcode).name}"
        raise DistributedError(
            f"rank {rank} died ({how}) and the others were stopped; SIGKILL mostly means that memory "
            "ran out; go on with --resume"
        ) from None
    return 0
