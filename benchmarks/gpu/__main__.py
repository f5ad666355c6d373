"""`python -m benchmarks.gpu`, as `make gpu` runs it. Needs nothing but Python to start."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu import installed, report
from benchmarks.gpu.context import REPOSITORY, Context, PartFailed
from benchmarks.gpu.runner import PARTS, chosen, run_parts

SECONDS = 290.0
"""For everything; five minutes with what is not counted."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the chosen parts and writes the report; 1 if a part failed."""
    options = _parser().parse_args(arguments)
    start, date = time.monotonic(), datetime.date.today().isoformat()
    try:
        names = chosen(options.parts)
    except ValueError as error:
        print(f"make gpu: {error}", file=sys.stderr)
        return 2
    options.work.mkdir(parents=True, exist_ok=True)
    context = Context(
        device=options.device,
        folder=options.work.resolve(),
        deadline=start + 60,
        small=options.small,
        environment=installed.variables(options.work.resolve()),
    )
    notes = ["Tiny sizes: this shows that the script works, and nothing else."] if options.small else []
    try:
        context.facts = _facts(context)
        print(f"{context.facts['name']}, driver {context.facts['driver']}", flush=True)
    except PartFailed as error:
        notes.append(f"The device could not be examined: {error}")
        print(f"FAILED: {error}", flush=True)
    left = options.seconds - (time.monotonic() - start)
    outcomes = run_parts(context, names, left, lambda line: print(line, flush=True))
    notes.append(f"{time.monotonic() - start:.0f} s in all; logs of the commands: {options.work}.")
    # Nothing was measured on a device that can't be examined: such a report stays with the logs.
    out = options.out if context.facts else options.work
    path = report.write(out, context.facts, outcomes, date, notes)
    print(f"report: {path}", flush=True)
    failed = not context.facts or any(outcome.failure is not None for outcome in outcomes)
    return int(failed)


def _facts(context: Context) -> dict[str, object]:
    file = context.folder / "facts.json"
    small = ["--small"] if context.small else []
    context.python("-m", "benchmarks.gpu.facts", context.device, str(file), *small)
    found: dict[str, object] = json.loads(file.read_text())
    return found


def _parser() -> argparse.ArgumentParser:
    parts = "; ".join(f"{name}: {part.SUMMARY}" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--parts", default="", help=f"With commas between; default: all. {parts}")
    parser.add_argument("--device", default="cuda:0", help="As torch names it (default: cuda:0).")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="For everything (default: 290).")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks/reports", help="For the report.")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs/gpu", help="For logs.")
    parser.add_argument("--small", action="store_true", help="Tiny sizes, to try the script itself.")
    return parser


if __name__ == "__main__":
    sys.exit(main())
