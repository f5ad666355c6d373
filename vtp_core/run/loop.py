"""The training loop: steps, metrics, checkpoints, evaluation, orderly stops."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from typing import NoReturn

import torch

from vtp_core.batch import Batch
from vtp_core.errors import NumericError, VtpError
from vtp_core.evaluation.failures import reason
from vtp_core.evaluation.history import summary
from vtp_core.evaluation.progress import silent
from vtp_core.evaluation.runner import Results
from vtp_core.run.callback import Callbacks, RunInfo
from vtp_core.run.finish import evaluate_run, is_best, note_best
from vtp_core.run.metrics import MetricsLog
from vtp_core.run.processes.signals import STOP_SIGNALS, Interrupted, StopSignals
from vtp_core.run.processes.watch import Watch
from vtp_core.run.progress import RunProgress
from vtp_core.run.setup.opening import Run
from vtp_core.run.spikes import SpikeWatch
from vtp_core.training.joint import StepResult
from vtp_core.training.ranks.rank_objects import gather_objects, on_first_rank
from vtp_core.training.ranks.replicas import check_replicas
from vtp_core.training.saving.checkpoint import Saved, save

_log = logging.getLogger(__name__)


class Loop:
    """Runs the steps of a run.

    Args:
        run: An opened run.
        callbacks: Listeners; called on rank 0.
        stop: The run's stop signals.
        watch: Notes the phase and step of this rank, and reports stalls.
    """

    def __init__(self, run: Run, callbacks: Callbacks, stop: StopSignals, watch: Watch) -> None:
        self.run, self.callbacks, self.stop, self.watch = run, callbacks, stop, watch
        self.total = run.recipe.run.steps
        self.first = run.world.rank == 0
        self.made = run.start
        self._newest: tuple[str, ...] = ()
        self._since = (time.perf_counter(), run.start)
        self._saved = run.start
        self._loader = run.loader(run.start)
        self._lost = sum(len(found) for found in run.lost().values())

    def __call__(self) -> None:
        """Runs from the run's first step to the last.

        Raises:
            NumericError: Too many steps in a row were not finite.
            DataError: Too many samples could not be read.
            DistributedError: Values that should be equal on all ranks are not; nothing was saved.
            Preempted: A signal asked the run to stop, and a checkpoint was published.
            Stopped: A signal asked it to stop before that.
        """
        run, finished, spikes = self.run, False, SpikeWatch()
        self.made = run.start
        info = RunInfo(
            name=run.recipe.name,
            folder=run.folder.path,
            start=run.start,
            total=self.total,
            recipe=run.recipe_data(),
        )
        with ExitStack() as stack:
            self.stop.waits = True
            stack.callback(setattr, self.stop, "waits", False)
            log = bar = None
            if self.first:
                log = stack.enter_context(MetricsLog(run.folder.metrics, run.start or None))
                if log.damaged:
                    _log.warning(
                        "%s: %d damaged lines stay in it and are left out of the report",
                        run.folder.metrics,
                        log.damaged,
                    )
                bar = stack.enter_context(RunProgress(self.total, run.start))
                self.callbacks.run_start(info)
            steps = stack.enter_context(closing(iter(self._loader)))
            try:
                if self._due(run.start) and not on_first_rank(lambda: run.folder.evaluated(run.start)):
                    self._evaluate(run.start, bar)  # what ended the earlier start came before it
                while (loaded := self._next(steps)) is not None:
                    index, batches = loaded
                    logged = self._logged(index)
                    self.watch.now("computing", step=index + 1, keys=_keys(batches))
                    result = run.joint(batches, index, measure=logged)
                    self.made = made = index + 1
                    if result.skipped is not None and bar is not None:
                        bar.message(f"step {made} skipped: {result.skipped}")
                    elif bar is not None:
                        for spike in spikes.see(result.terms):
                            bar.message(f"step {made}: {spike}")
                    if logged or result.skipped is not None:
                        self._log(made, result, batches, log, bar)
                    run.guard.record(result.skipped, made)
                    if bar is not None:
                        bar.step(made)
                    if self._asked():
                        self._end()
                    if made % run.recipe.run.checkpoint_every == 0 or made == self.total:
                        self._save(made)
                    if self._due(made):
                        self._evaluate(made, bar)
                finished = True
            except Interrupted:
                self._end()
            finally:
                self.watch.now("ending", long=True)
                if self.first:
                    self.callbacks.run_end(self.made, finished)

    def _next(self, steps: Iterator[tuple[int, dict[str, Batch]]]) -> tuple[int, dict[str, Batch]] | None:
        """The next step's batches, or None after the last."""
        self.watch.now("loading data", step=self.made + 1, keys=self._newest)
        with self._interruptible():
            loaded = next(steps, None)
        if loaded is not None:
            self._newest = _keys(loaded[1])
        return loaded

    def _interruptible(self) -> AbstractContextManager[None]:
        """A block which a signal may end: the weights are those of the last step, so they can be saved.

        With several ranks only the end of a step is the same moment on all of them.
        """
        return self.stop.at_once() if self.run.world.size == 1 else nullcontext()

    def _asked(self) -> bool:
        """Whether any rank got a stop signal; every rank calls it at the same step."""
        flags = [float(self.stop.number == number) for number in STOP_SIGNALS]
        told = self.run.world.sum(torch.tensor(flags, device=self.run.world.device)).tolist()
        numbers = [number for number, flag in zip(STOP_SIGNALS, told, strict=True) if flag > 0]
        if numbers and self.stop.number is None:
            self.stop.note(numbers[0])  # a launcher may send it to this rank a moment later
        return bool(numbers)

    def _end(self) -> NoReturn:
        """Saves what this process made, unless that is saved, and ends the run."""
        made, when = self.made, f"after step {self.made}"
        if made == self.run.start:
            when = "before its first step"
        elif self._saved != made:
            saved = self._save(made)
            if saved.nonfinite is not None:
                raise NumericError(
                    f"stopped by a signal {when}; {saved.path} can be inspected but not resumed from, as "
                    f"{saved.nonfinite} is not finite. Last good checkpoint: "
                    f"{self.run.guard.last_checkpoint or 'none yet'}"
                )
        raise self.stop.error(when)

    def _due(self, made: int) -> bool:
        """Whether an evaluation is due after a step; that of the last step comes with the run's end."""
        every = self.run.recipe.evaluate.every
        return bool(every) and made % every == 0 and 0 < made < self.total

    def _logged(self, index: int) -> bool:
        return (index + 1) % self.run.recipe.run.log_every == 0 or index in (0, self.total - 1)

    def _log(
        self,
        made: int,
        result: StepResult,
        batches: Mapping[str, Batch],
        log: MetricsLog | None,
        bar: RunProgress | None,
    ) -> None:
        now = time.perf_counter()
        rows = self._rows(batches)
        rate = rows * (made - self._since[1]) / max(now - self._since[0], 1e-9)
        self._since = (now, made)
        if log is None or bar is None:
            return
        values: dict[str, float] = {
            "samples": made * rows,
            **{f"loss/{name}": value for name, value in result.terms.items()},
            **{f"weighted/{name}": value for name, value in result.weighted.items()},
            **result.gradients,
            **{f"report/{name}": value for name, value in result.report.items()},
            "lr": self.run.optimizer.lr,
            "rows_per_s": rate,
            "memory_mib": _memory_mib(self.run.world.device),
        }
        if result.skipped is not None:
            values["skipped"] = 1.0
        if self._lost:
            values["data/lost_parts"] = self._lost
        log.write(made, values)
        bar.log(made, sum(result.weighted.values()), rate)
        self.callbacks.step_end(made, values)

    def _rows(self, batches: Mapping[str, Batch]) -> int:
        """Samples of a step: the largest view of each source."""
        largest: dict[str, int] = {}
        for name, batch in batches.items():
            source = self.run.recipe.views[name].source
            largest[source] = max(largest.get(source, 0), batch.rows)
        return sum(largest.values())

    def _save(self, made: int) -> Saved:
        run = self.run
        self.watch.now("saving", step=made, long=True)
        check_replicas(run.state())
        saved = save(
            run.folder.checkpoints,
            made,
            run.state(),
            recipe=run.recipe_data(),
            keep=run.recipe.run.keep_checkpoints,
            extra={
                "kernels": run.kernels.record(run.world.device),
                "guard": run.guard.state(),
                "bad_samples": gather_objects(self._loader.quarantine.state()),
                "source_lengths": run.source_lengths(),
            },
        )
        if saved.nonfinite is None:
            self.stop.saved = run.guard.last_checkpoint = saved.path.name
            self._saved = made
        if self.first:
            self.callbacks.checkpoint(made, saved.path)
        return saved

    def _evaluate(self, made: int, bar: RunProgress | None) -> None:
        began = time.perf_counter()
        self.watch.now("evaluating", step=made, long=True)
        results: Results = {}
        failures: Mapping[str, VtpError] = {}
        try:
            with self._interruptible():
                results, failures = evaluate_run(self.run, made, show=silent if bar is None else bar.show)
        except NumericError as broken:  # the weights of a bad step: the guard sees them at the next one
            if bar is not None:
                bar.message(f"step {made}: {broken}")
        if bar is not None:
            for name, error in failures.items():
                bar.message(f"step {made}: evaluator {name} is left out: {reason(name, error)}")
            if results:
                bar.message(f"step {made}: {summary(results)}")
        if is_best(self.run, made, results):
            if self._saved != made:
                self._save(made)
            if self._saved == made:
                note_best(self.run, made, results)
        if self.first:
            self.callbacks.evaluate(made, results)
        # rows_per_s excludes the time of evaluation.
        self._since = (self._since[0] + time.perf_counter() - began, self._since[1])


def _keys(batches: Mapping[str, Batch]) -> tuple[str, ...]:
    return max((batch.keys for batch in batches.values()), key=len, default=())


def _memory_mib(device: torch.device) -> float:
    """Peak memory of the process: allocated on the GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
