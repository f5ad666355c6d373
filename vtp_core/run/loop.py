"""The training loop: steps, metrics, checkpoints, evaluation, orderly stops."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack

import torch

from vtp_core.batch import Batch
from vtp_core.errors import Preempted
from vtp_core.evaluation.failures import reason
from vtp_core.evaluation.history import summary
from vtp_core.evaluation.progress import silent
from vtp_core.run.callback import Callbacks, RunInfo
from vtp_core.run.finish import evaluate_run, is_best, note_best
from vtp_core.run.metrics import MetricsLog
from vtp_core.run.opening import Run
from vtp_core.run.progress import RunProgress
from vtp_core.run.signals import StopFlag
from vtp_core.run.spikes import SpikeWatch
from vtp_core.training.joint import StepResult
from vtp_core.training.ranks.rank_objects import gather_objects, on_first_rank
from vtp_core.training.ranks.replicas import check_replicas
from vtp_core.training.saving.checkpoint import save

_log = logging.getLogger(__name__)


class Loop:
    """Runs the steps of a run.

    Args:
        run: An opened run.
        callbacks: Listeners; called on rank 0.
    """

    def __init__(self, run: Run, callbacks: Callbacks) -> None:
        self.run, self.callbacks = run, callbacks
        self.total = run.recipe.run.steps
        self.first = run.world.rank == 0
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
            Preempted: A signal asked the run to stop; its state was saved.
        """
        run, made, finished, spikes = self.run, self.run.start, False, SpikeWatch()
        info = RunInfo(
            name=run.recipe.name,
            folder=run.folder.path,
            start=run.start,
            total=self.total,
            recipe=run.recipe_data(),
        )
        with ExitStack() as stack:
            stop = stack.enter_context(StopFlag())
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
            try:
                if self._due(run.start) and not on_first_rank(lambda: run.folder.evaluated(run.start)):
                    self._evaluate(run.start, bar)  # what ended the earlier start came before it
                for index, batches in self._loader:
                    logged = self._logged(index)
                    result = run.joint(batches, index, measure=logged)
                    made = index + 1
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
                    asked = stop.asked(run.world)
                    if made % run.recipe.run.checkpoint_every == 0 or made == self.total or asked:
                        self._save(made)
                    if self._due(made) and not asked:
                        self._evaluate(made, bar)
                    if asked and made < self.total:
                        raise Preempted(
                            f"stopped by a signal after step {made}; the state is saved, "
                            "continue with --resume"
                        )
                finished = True
            finally:
                if self.first:
                    self.callbacks.run_end(made, finished)

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

    def _save(self, made: int) -> None:
        run = self.run
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
            },
        )
        if saved.nonfinite is None:
            run.guard.last_checkpoint = saved.path.name
            self._saved = made
        if self.first:
            self.callbacks.checkpoint(made, saved.path)

    def _evaluate(self, made: int, bar: RunProgress | None) -> None:
        began = time.perf_counter()
        results, failures = evaluate_run(self.run, made, show=silent if bar is None else bar.show)
        if bar is not None:
            for name, error in failures.items():
                bar.message(f"step {made}: evaluator {name} is left out: {reason(name, error)}")
            if results:
                bar.message(f"step {made}: {summary(results)}")
        if is_best(self.run, made, results):
            if self._saved != made:
                self._save(made)
            if self.first and self._saved == made:
                note_best(self.run, made, results)
        if self.first:
            self.callbacks.evaluate(made, results)
        # rows_per_s excludes the time of evaluation.
        self._since = (self._since[0] + time.perf_counter() - began, self._since[1])


def _memory_mib(device: torch.device) -> float:
    """Peak memory of the process: allocated on the GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
