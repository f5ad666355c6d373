"""The child process of `vtp kernels tune`: tries and times implementations, one JSON line for each event.

A kernel may end the process or leave the device unusable. The parent knows from the last line what was being
tried, and starts another worker without it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import torch

from vtp_core.ops.choice import Kernel
from vtp_plugins.kernels.timing import clock_for, measure
from vtp_plugins.kernels.tuning.problem import Problem, build, candidates, operator_of
from vtp_plugins.kernels.tuning.shapes import SHAPES

BROKEN = 3
"""Exit code after a failure that leaves the device unusable in this process."""

NO_MEMORY = "needs more memory than there is"


class Worker:
    """Measures the shapes of an order.

    Args:
        order: ``device``; ``shapes``, indices of `SHAPES`; ``rounds``; ``threads``; ``excluded``, lists of
            operator, name and dtype that are not tried.
        say: Is called with each event.
    """

    def __init__(self, order: dict[str, Any], say: Callable[..., None]) -> None:
        self.shapes: list[int] = order["shapes"]
        self.rounds: int = order["rounds"]
        self.device = torch.device(order["device"])
        self.excluded = {tuple(item) for item in order["excluded"]}
        self.say = say
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        torch.set_num_threads(order["threads"])
        self.clock, _ = clock_for(order["threads"], order["device"])

    def run(self) -> None:
        """Measures one shape after another."""
        for index in self.shapes:
            self.say(event="shape", index=index)
            try:
                problem = build(SHAPES[index], self.device)
                self._time(problem, self._agreed(problem, index), index)
            except torch.OutOfMemoryError:
                self.say(event="skipped", index=index, reason=NO_MEMORY)

    def _agreed(self, problem: Problem, index: int) -> dict[str, Kernel[Any, Any]]:
        """The implementations whose results are the reference's, by name."""
        operator, dtype = operator_of(SHAPES[index]), SHAPES[index].dtype
        agreed = {}
        for kernel in candidates(operator, self.device):
            if (operator, kernel.name, dtype) in self.excluded:
                continue
            if refusal := kernel.obstacle(problem.case):
                self.say(event="refused", index=index, name=kernel.name, reason=refusal)
                continue
            self.say(event="trying", index=index, name=kernel.name)
            try:
                complaint = problem.disagreement(kernel)
            except torch.OutOfMemoryError:
                self.say(event="refused", index=index, name=kernel.name, reason=NO_MEMORY)
                continue
            except Exception as error:  # whatever a kernel or its compiler raises: it is named and left out
                complaint = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            if complaint:
                self.excluded.add((operator, kernel.name, dtype))
                self.say(event="failed", index=index, name=kernel.name, reason=complaint)
                self._check_device()
            else:
                agreed[kernel.name] = kernel
        return agreed

    def _check_device(self) -> None:
        """Ends the process if a failure left the device unusable."""
        if self.device.type != "cuda":
            return
        try:
            torch.ones(1, device=self.device).add_(1).item()
        except RuntimeError:
            os._exit(BROKEN)

    def _time(self, problem: Problem, agreed: dict[str, Kernel[Any, Any]], index: int) -> None:
        self.say(event="timing", index=index)
        yardsticks = {}
        for name, parts in problem.yardsticks().items():
            try:
                parts["step"]()
                yardsticks[name] = parts
            except RuntimeError as error:  # this torch or this device has no such backend
                self.say(event="refused", index=index, name=name, reason=str(error).partition("\n")[0])
        calls = {name: problem.calls(kernel) for name, kernel in agreed.items()} | yardsticks
        seconds: dict[str, dict[str, float]] = {name: {} for name in calls}
        for part in sorted({part for parts in calls.values() for part in parts}):
            of_part = {name: parts[part] for name, parts in calls.items()}
            for name, timing in measure(of_part, self.rounds, self.clock).items():
                seconds[name][part] = timing.median
        self.say(
            event="timed",
            index=index,
            seconds=seconds,
            implementations=list(agreed),
            attributes=dict(problem.attributes()),
            work=dict(problem.work()),
        )


def main() -> None:
    """Reads the order from the command line; events go to what was standard output, all else to errors."""
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def say(**event: Any) -> None:
        print(json.dumps(event), file=events, flush=True)

    Worker(json.loads(sys.argv[1]), say).run()


if __name__ == "__main__":
    main()
