"""Peers: implementations of a case's job in other libraries, where those are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """An alternative implementation of a case's job.

    Attributes:
        name: As the table calls it.
        build: Binds the inputs and returns the call.
        needs: Modules that it imports.
        refuses: Reason why it can't run this case, or None.
    """

    name: str
    build: Callable[[], Call]
    needs: tuple[str, ...] = ()
    refuses: str | None = None


def gather(peers: Iterable[Peer]) -> tuple[dict[str, Call], dict[str, str]]:
    """The calls of those peers that are installed and can do the job, and why the others are left out."""
    calls, skipped = {}, {}
    for peer in peers:
        missing = [name for name in peer.needs if importlib.util.find_spec(name) is None]
        if peer.refuses is not None:
            skipped[peer.name] = peer.refuses
        elif missing:
            skipped[peer.name] = f"{', '.join(missing)} is not installed"
        else:
            calls[peer.name] = peer.build()
    return calls, skipped


def limit_threads(threads: int) -> None:
    """Holds the thread pools of other libraries (BLAS, OpenMP) at `threads`, if threadpoolctl is there."""
    if importlib.util.find_spec("threadpoolctl") is not None:
        import threadpoolctl

        threadpoolctl.threadpool_limits(threads)
