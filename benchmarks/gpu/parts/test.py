"""Runs the kernels' tests on the device."""

from __future__ import annotations

import importlib.util
import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from benchmarks.gpu.context import Context, PartFailed

SUMMARY = "tests on the device: Triton and CUDA C++, forward and backward, against float64 on the CPU"
LIMIT = 75.0
KEPT = 40.0
FOLDER = "tests/plugins/kernels/gpu"
SHOWN = 20


def run(context: Context) -> list[str]:
    """How many tests passed; those that failed by name, with the first line of the reason.

    Raises:
        PartFailed: A test failed, or none ran.
    """
    file = context.folder / "tests.xml"
    file.unlink(missing_ok=True)
    command = ["-m", "pytest", "-q", FOLDER, f"--junitxml={file}", "-p", "no:cacheprovider", "-W", "default"]
    command += ["-m", "not slow"] if context.device == "cpu" else ["-m", "gpu"]
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(min(8, max(1, (os.cpu_count() or 2) // 2)))]
    failure: PartFailed | None = None
    try:
        context.python(*command, environment={"VTP_TEST_DEVICE": context.device.partition(":")[0]})
    except PartFailed as error:
        failure = error
    if not file.is_file():
        raise failure or PartFailed(f"pytest wrote no results; see {context.log}")
    passed, skipped, failed = read(file)
    lines = [f"{passed} passed, {len(failed)} failed, {skipped} skipped.", ""]
    lines += [f"- **failed** {name}" for name in failed[:SHOWN]]
    if failed:
        raise PartFailed(f"{len(failed)} of {passed + len(failed)} tests failed: {failed[0][:200]}", lines)
    if failure is not None or not passed:
        raise PartFailed(str(failure or "no test ran"), lines)
    return lines


def read(file: Path) -> tuple[int, int, list[str]]:
    """Passed, skipped, and the failed by name and reason, of pytest's JUnit file."""
    passed, skipped, failed = 0, 0, []
    for case in ElementTree.parse(file).getroot().iter("testcase"):
        problem = next((child for child in case if child.tag in ("failure", "error")), None)
        if problem is not None:
            reason = (problem.get("message") or "").strip().splitlines() or ["no message"]
            where = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
            failed.append(f"{where}: {reason[0][:200]}")
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return passed, skipped, failed
