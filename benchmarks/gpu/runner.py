"""Runs the parts one after another; what fails is noted and the rest goes on. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

from benchmarks.gpu.context import Context, PartFailed
from benchmarks.gpu.outcome import Outcome
from benchmarks.gpu.parts import bench, build, memcheck, test, train, tune, vtp_s

PARTS: Mapping[str, ModuleType] = {
    "build": build,
    "test": test,
    "memcheck": memcheck,
    "tune": tune,
    "bench": bench,
    "train": train,
    "vtp_s": vtp_s,
}
"""Name -> module, as `benchmarks.gpu.parts` describes them."""


def chosen(text: str) -> list[str]:
    """Names of parts from a list with commas, in their order; all if it is empty.

    Raises:
        ValueError: There is no such part.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in PARTS:
            raise ValueError(f"no part {name!r}; there are: {', '.join(PARTS)}")
    return [name for name in PARTS if name in names] if names else list(PARTS)


def run_parts(
    context: Context,
    names: Sequence[str],
    seconds: float,
    tell: Callable[[str], None],
    parts: Mapping[str, ModuleType] = PARTS,
) -> list[Outcome]:
    """Runs parts within a time; each has its own limit, and what is kept for those after it.

    Args:
        context: Its part and deadline change with each part.
        names: Keys of `parts`.
        seconds: For all of them.
        tell: Is called with a line at the start and the end of each.
        parts: The parts.
    """
    end = time.monotonic() + seconds
    outcomes = []
    for position, name in enumerate(names):
        part = parts[name]
        outcome = Outcome(name=name, summary=part.SUMMARY)
        outcomes.append(outcome)
        start = time.monotonic()
        kept = sum(parts[later].KEPT for later in names[position + 1 :])
        context.part, context.deadline = name, min(start + part.LIMIT, end - kept)
        context.log.unlink(missing_ok=True)
        tell(f"{name}: {part.SUMMARY}")
        try:
            if context.left <= 1:
                raise PartFailed(f"not started, the {seconds:.0f} seconds are over")
            outcome.lines = part.run(context)
        except PartFailed as error:
            outcome.failure, outcome.lines = str(error), error.lines
        except Exception as error:  # a mistake in a part must not cost the others
            outcome.failure = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        outcome.seconds = time.monotonic() - start
        verdict = "done" if outcome.failure is None else f"FAILED: {outcome.failure}"
        tell(f"{name}: {verdict} ({outcome.seconds:.0f} s)")
    return outcomes
