"""The run folder: the names of its files, how each is written and how each is read. Imports no torch."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vtp_core.atomic import plain_size, write_json, write_text
from vtp_core.errors import UsageError
from vtp_core.evaluation.history import PREFIX, metrics_row
from vtp_core.recipe.history import RESOLVED, current_metrics
from vtp_core.recipe.toml_values import TomlError, parse_toml
from vtp_core.report.run_data import GALLERY, RunData, read_gallery, table
from vtp_core.run.metrics import append_line, read_lines, step_of
from vtp_core.training.saving.best import read_best

if TYPE_CHECKING:
    from vtp_core.recipe import Recipe

_log = logging.getLogger(__name__)


LEFT_OUT = "left_out"
"""Key of ``eval.json`` beside the metrics: evaluator -> why it gave no number."""


class RunFolder:
    """A run folder, whether it exists or not.

    Args:
        path: Where it is.

    Attributes:
        path: Where it is.
        recipe: The resolved recipe, ``resolved.toml``. A folder that has one is a run folder.
        environment: Versions, machine and plugins, ``environment.json``.
        metrics: One line a logged step, ``metrics.jsonl``.
        evaluation: The newest measurements, ``eval.json``.
        checkpoints: Folder of the checkpoints.
        tokenizer: The artefact.
        samples: Folder of the reconstructions that the report shows.
        gallery: Their list, ``samples/samples.json``.
        report: ``report.html``.
        lock: Locked while a process trains here, ``.lock``.
        lock_holder: Host, process and time of that process, ``.lock.json``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = self.path / RESOLVED
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.evaluation = self.path / "eval.json"
        self.checkpoints = self.path / "checkpoints"
        self.tokenizer = self.path / "tokenizer"
        self.samples = self.path / "samples"
        self.gallery = self.samples / GALLERY
        self.report = self.path / "report.html"
        self.lock = self.path / ".lock"
        self.lock_holder = self.path / ".lock.json"

    @classmethod
    def of(cls, recipe: Recipe) -> RunFolder:
        """The folder that a recipe's ``run.out`` names."""
        return cls(recipe.run.out.replace("<name>", recipe.name))

    @classmethod
    def holding(cls, path: Path) -> RunFolder:
        """The run folder that a path names, or that of its checkpoint: ``RUN/checkpoints/best``."""
        return cls(path.parent.parent if path.parent.name == "checkpoints" else path)

    def __str__(self) -> str:
        return str(self.path)

    def quarantine(self, rank: int) -> Path:
        """The bad samples of one rank, ``quarantine-RANK.jsonl``."""
        return self.path / f"quarantine-{rank}.jsonl"

    def exists(self) -> bool:
        """Whether it is a run folder: one with a resolved recipe."""
        return self.recipe.is_file()

    def require_new(self) -> None:
        """Refuses a folder that already holds a run, or other files that a run would replace.

        Raises:
            UsageError: It does.
        """
        # A save that was killed leaves a folder that ends in .tmp; the next one removes it.
        begun = self.metrics.is_file() and self.metrics.stat().st_size > 0
        if begun or any(path.suffix != ".tmp" for path in self.checkpoints.glob("*")):
            raise UsageError(
                f"{self}: already holds a run; continue it with --resume, or choose another folder with "
                f"--out FOLDER. Nothing was touched."
            )
        if self.exists():
            return
        places = [self.samples, self.tokenizer, self.checkpoints]
        places += [self.report, self.evaluation, self.environment]
        if others := [path.name for path in places if path.exists() and not _empty(path)]:
            raise UsageError(
                f"{self}: is no run folder and holds {', '.join(others)}, which a run would replace; choose "
                "another folder with --out FOLDER. Nothing was touched."
            )

    def require_plain(self) -> None:
        """Refuses links and pipes in the place of files that a run writes in place.

        Raises:
            UsageError: One is there; writing would change a file elsewhere.
        """
        written = (self.lock, self.lock_holder, self.metrics, *self.path.glob("quarantine-*.jsonl"))
        for path in written:
            try:
                plain_size(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise UsageError(f"{self}: {error}, and is written in place: remove it") from None

    def write_recipe(self, text: str) -> None:
        """Writes ``resolved.toml``; the folder is created."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.recipe, text)

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Writes ``environment.json``; what earlier starts wrote stays under ``earlier`` if it differs.

        A damaged file is written anew without them; a warning names it.
        """
        problems: list[str] = []
        before = self._object(self.environment, problems) if self.environment.exists() else {}
        earlier = before.pop("earlier", [])
        if not isinstance(earlier, list):
            problems.append(f"{self.environment.name}: earlier is no list")
            earlier = []
        for problem in problems:
            _log.warning("%s: %s; its list of earlier starts is lost", self, problem)
        if before and before != json.loads(json.dumps(environment)):
            earlier.append(before)
        write_json(self.environment, {**environment, "earlier": earlier} if earlier else environment)

    def write_evaluation(
        self, step: int, results: Mapping[str, Mapping[str, object]], left_out: Mapping[str, str]
    ) -> None:
        """Writes ``eval.json``: metric -> entry, and the line of this evaluation in ``metrics.jsonl``.

        Args:
            step: Steps that were made.
            results: Metric -> entry.
            left_out: Evaluator -> why it gave no number; a table of its own in the file, if there is any.
        """
        write_json(self.evaluation, {**results, LEFT_OUT: left_out} if left_out else results)
        row = metrics_row(results)
        if {"step": step, **row} not in self.read_metrics():  # the last one may be repeated
            append_line(self.metrics, step, row)

    def evaluated(self, step: int) -> bool:
        """Whether ``metrics.jsonl`` has an evaluation of that step."""
        rows = [row for row in self.read_metrics() if row["step"] == step]
        return any(key.startswith(PREFIX) for row in rows for key in row)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines of ``metrics.jsonl``; none if there is no file."""
        return self._metrics([])

    def read_steps(self) -> list[dict[str, Any]]:
        """The lines of logged steps, without those of evaluations."""
        return [row for row in self.read_metrics() if "samples" in row]

    def read(self) -> RunData:
        """Everything that the report shows.

        Raises:
            UsageError: It is no run folder.
        """
        if not self.path.is_dir():
            raise UsageError(f"{self}: no such folder; give the folder of a run, such as runs/quickstart")
        if not self.exists():
            raise UsageError(f"{self}: not a run folder (no resolved.toml); give one that `vtp run` wrote")
        missing: list[str] = []
        recipe_text = ""
        recipe: dict[str, Any] = {}
        try:
            recipe_text = self.recipe.read_text(encoding="utf-8", errors="replace")
            recipe = parse_toml(recipe_text)
        except (OSError, TomlError) as error:
            missing.append(f"resolved.toml can't be read: {error}")
        evaluation = self._object(self.evaluation, missing)
        for evaluator, reason in table(evaluation.pop(LEFT_OUT, None)).items():
            missing.append(f"evaluator {evaluator} gave no number: {reason}")
        return RunData(
            name=str(recipe.get("name", self.path.name)),
            recipe=recipe,
            recipe_text=recipe_text,
            environment=self._object(self.environment, missing),
            metrics=self._metrics(missing),
            evaluation={name: entry for name, entry in evaluation.items() if isinstance(entry, dict)},
            gallery=self._gallery(missing),
            images=self.samples,
            artefact=self._object(self.tokenizer / "config.json", missing),
            bad_samples=self._bad_samples(missing),
            best=(best.step, best.metric, best.value) if (best := read_best(self.checkpoints)) else None,
            missing=missing,
        )

    def _object(self, path: Path, missing: list[str]) -> dict[str, Any]:
        name = path.relative_to(self.path)
        try:
            if not path.is_file():
                missing.append(f"no {name}")
                return {}
            data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
        except (OSError, ValueError, RecursionError) as error:
            missing.append(f"{name} can't be read: {error}")
            return {}
        if not isinstance(data, dict):
            missing.append(f"{name} holds no object")
            return {}
        return data

    def _metrics(self, missing: list[str]) -> list[dict[str, Any]]:
        if not self.metrics.is_file():
            missing.append(f"no {self.metrics.name}")
        rows = self._lines(self.metrics, missing, lambda row: step_of(row) is not None)
        return [current_metrics(row) for row in rows]

    def _lines(
        self, path: Path, missing: list[str], whole: Callable[[dict[str, Any]], bool] = bool
    ) -> list[dict[str, Any]]:
        """The objects of a file; lines that hold none, or none that is `whole`, are counted as damaged."""
        try:
            lines, damaged = read_lines(path)
        except OSError as error:
            missing.append(f"{path.name} can't be read: {error}")
            return []
        rows = [line for line in lines if whole(line)]
        if damaged := damaged + len(lines) - len(rows):
            missing.append(f"{path.name}: {damaged} lines can't be read")
        return rows

    def _gallery(self, missing: list[str]) -> dict[str, Any]:
        data = self._object(self.gallery, missing)
        try:
            return read_gallery(data) if data else {}
        except ValueError as error:
            missing.append(f"samples/{self.gallery.name} is not what the report writes ({error})")
            return {}

    def _bad_samples(self, missing: list[str]) -> dict[str, int]:
        """Reason -> samples; one that two ranks or two starts met counts once."""
        paths = sorted(self.path.glob("quarantine-*.jsonl"))
        lines = [line for path in paths for line in self._lines(path, missing)]
        distinct = {(str(line.get("source")), str(line.get("index"))): line for line in lines}
        return dict(Counter(str(line.get("reason", "unknown")) for line in distinct.values()))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _empty(path: Path) -> bool:
    """Whether a folder holds nothing but what a killed save left."""
    return path.is_dir() and all(inside.suffix == ".tmp" for inside in path.iterdir())
