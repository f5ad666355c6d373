"""Compiles every kernel for every architecture and compares with the table; no GPU is needed.

python -m vtp_plugins.kernels.triton.gate                         compare
python -m vtp_plugins.kernels.triton.gate --write                 write the table anew
python -m vtp_plugins.kernels.triton.gate --write --only settle   only the rows of some cases
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from vtp_plugins.kernels.triton.gate.case import GateCase
from vtp_plugins.kernels.triton.gate.cases import all_cases
from vtp_plugins.kernels.triton.gate.compilation import Resources, compile_case
from vtp_plugins.kernels.triton.gate.table import FILE, problems, read_table, write_table


def main(arguments: list[str] | None = None) -> int:
    """Runs the gate.

    Returns:
        0 if all is as the table says, else 1.
    """
    parser = argparse.ArgumentParser(description="Compile the Triton kernels without a GPU.")
    parser.add_argument("--write", action="store_true", help="write the table instead of comparing with it")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains TEXT")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="processes")
    options = parser.parse_args(arguments)
    cases = [case for case in all_cases() if options.only in case.name]
    found = compile_all(cases, options.jobs)
    if options.write:
        rows = {name: resources.as_row() for name, resources in found.items()}
        _, old = read_table() if options.only else ("", {})
        write_table({case.name: (old | rows)[case.name] for case in all_cases() if case.name in old | rows})
        print(f"{len(rows)} rows written to {FILE}")
    bad = gate(cases, found, whole=not options.only)
    for line in bad:
        print(line, file=sys.stderr)
    print(f"{len(cases)} kernels compiled, {len(bad)} problems")
    return 1 if bad else 0


def compile_all(cases: list[GateCase], jobs: int) -> dict[str, Resources]:
    """Resources of each case, by name."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        found = {}
        for case, resources in zip(cases, pool.map(compile_case, cases), strict=True):
            found[case.name] = resources
            print(f"{len(found)}/{len(cases)} {case.name}: {resources.as_row()}", flush=True)
        return found


def gate(cases: list[GateCase], found: dict[str, Resources], *, whole: bool) -> list[str]:
    """All problems of `found` against the table; with `whole`, rows without a case too."""
    _, table = read_table()
    lines = [line for case in cases for line in problems(case, found[case.name], table.get(case.name))]
    if whole:
        lines += [f"{name}: is in the table only; write it anew" for name in table if name not in found]
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
