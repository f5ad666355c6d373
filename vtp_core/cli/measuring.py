"""What ``vtp eval`` measures on which data, and the measuring of one tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtp_core.cli.arguments.generator import sampled_with
from vtp_core.cli.arguments.held_out import read_held_out, read_source
from vtp_core.cli.arguments.tables import read_table
from vtp_core.errors import DataError, UsageError, VtpError
from vtp_core.recipe import load_recipe
from vtp_core.recipe.history import RESOLVED

if TYPE_CHECKING:
    from vtp_core.config import ComponentConfig
    from vtp_core.evaluation.evaluator import Evaluator
    from vtp_core.evaluation.sets.dataset import EvaluationSet
    from vtp_core.plugins import Plugins
    from vtp_core.recipe import Recipe
    from vtp_core.recipe.tables.data import DecodeLimits
    from vtp_core.tokenizer import Tokenizer

ROWS = 64
"""Samples at a time where no recipe tells."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured on which data, before anything is loaded.

    Attributes:
        held_out: The table of the held-out data.
        train: The table of the data that probes learn from.
        evaluators: Name -> table.
        named: Whether the command line names the evaluators: one that can't run is an error then.
        asked: Whether the command line or a recipe names them.
        of_run: Whether the training set is that of a run, which leaves bad samples out.
        rows: Samples at a time.
        limit: Samples of each set.
        limits: Limits of the images that are decoded.
        allow_incomplete: Whether parts that can't be read are left out.
        settings: Changes of generators' settings, for evaluators of generated samples.
    """

    held_out: ComponentConfig | None
    train: ComponentConfig | None
    evaluators: Mapping[str, ComponentConfig]
    named: bool
    asked: bool
    of_run: bool = False
    rows: int = ROWS
    limit: int | None = None
    limits: DecodeLimits | None = None
    allow_incomplete: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


def recipe_of(given: str | None, tokenizer: Path, source: str | None, plugins: Plugins) -> Recipe | None:
    """The recipe that says what is measured: a given one, else that of the tokenizer's run, else None.

    Raises:
        UsageError: It can't be read.
    """
    from vtp_core.artefact.finding import run_of_checkpoint

    if given is not None:
        return load_recipe(given, plugins=plugins)
    run = run_of_checkpoint(tokenizer) or tokenizer.parent
    return load_recipe(run, plugins=plugins) if source is None and (run / RESOLVED).is_file() else None


def make_plan(
    recipe: Recipe | None,
    source: str | None,
    train_source: str | None,
    chosen: Mapping[str, ComponentConfig],
    plugins: Plugins,
    *,
    named: bool,
) -> Plan:
    """The tables of the command line; what it doesn't name is the recipe's.

    Args:
        recipe: Names what the command line doesn't, or None.
        source: Table or path of the held-out data, or None.
        train_source: The same of the training data.
        chosen: The evaluators of the command line; empty: those of the recipe, or all.
        plugins: The installed ones.
        named: Whether the command line names each of these evaluators.

    Raises:
        UsageError: A table is wrong.
    """
    held_out = None if source is None else read_held_out(source, plugins)
    train = None if train_source is None else read_source(train_source, plugins)
    if recipe is None:
        evaluators, asked = chosen or _all(plugins), bool(chosen)
        return Plan(held_out=held_out, train=train, evaluators=evaluators, named=named, asked=asked)
    given = recipe.evaluate
    held_out = held_out or given.source
    return Plan(
        held_out=held_out,
        train=train or (held_out and (given.train_source or recipe.data.source)),
        evaluators=chosen or recipe.evaluators or _all(plugins),
        named=named,
        asked=bool(chosen or recipe.evaluators),
        of_run=train is None,
        rows=given.rows,
        limit=given.limit,
        limits=recipe.data.decode,
        allow_incomplete=given.allow_incomplete,
    )


def _all(plugins: Plugins) -> dict[str, ComponentConfig]:
    known = plugins.components("evaluator")
    return {component.name: read_table(component.name, "evaluator", plugins) for component in known}


@dataclass(kw_only=True)
class Measured:
    """What was measured of a tokenizer.

    Attributes:
        results: What `vtp_core.evaluation.runner.evaluate` returned.
        unfit: Evaluator -> why it can't measure this tokenizer or these sets.
        failures: Evaluator -> the error that ended it.
    """

    results: dict[str, dict[str, object]] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)
    failures: dict[str, VtpError] = field(default_factory=dict)

    @property
    def left_out(self) -> dict[str, str]:
        """Evaluator that failed -> why, on one line."""
        from vtp_core.evaluation.failures import reason

        return {name: reason(name, error) for name, error in self.failures.items()}

    @property
    def written(self) -> dict[str, Any]:
        """What JSON holds: the results, and what failed."""
        from vtp_core.run.records import LEFT_OUT

        return {**self.results, LEFT_OUT: self.left_out} if self.failures else dict(self.results)


class Measuring:
    """The opened sets of a plan, and the measuring of tokenizers on them.

    Args:
        plan: What is measured.
        plugins: Where sources and evaluators are looked up.

    Raises:
        DataError: There is nothing to read, or parts can't be read.
    """

    def __init__(self, plan: Plan, plugins: Plugins) -> None:
        from vtp_core.data.opening import Sources

        self.plan = plan
        self._plugins = plugins
        self._sources = Sources(plugins, plan.limits)
        for table in (plan.held_out, plan.train):
            if table is not None:
                self._sources.open(table)

    def measure(self, model: Tokenizer, say: Callable[[str], object]) -> Measured:
        """Measures a tokenizer.

        Args:
            model: In eval mode, on the device.
            say: Gets a line for each evaluator that is left out.

        Raises:
            UsageError: An evaluator that the command line names can't run, or none can.
            NumericError: A weight of the tokenizer is not finite.
        """
        from vtp_core.evaluation.runner import evaluate
        from vtp_core.run.progress import show_pass

        held_out, train = self._sets()
        found = Measured()
        evaluators = self._evaluators(model, held_out, train, found, say)
        for name, why in found.unfit.items():
            say(f"left out: {name}: {why}")
        if not evaluators:
            advice = "" if self.plan.held_out else ": give held-out data with --source"
            raise UsageError(
                f"no evaluator can run on this tokenizer and these sources{advice}; the lines above say why"
            )
        found.results = evaluate(
            model,
            evaluators,
            held_out,
            train,
            rows=self.plan.rows,
            show=show_pass,
            failures=found.failures,
        )
        return found

    def _sets(self) -> tuple[EvaluationSet | None, EvaluationSet | None]:
        from vtp_core.evaluation.opening import open_set

        plan = self.plan
        held_out = train = None
        allowed = plan.allow_incomplete
        if plan.held_out is not None:
            held_out = open_set(plan.held_out, self._sources, plan.limit, allow_incomplete=allowed)
        if plan.train is not None:
            train = open_set(
                plan.train, self._sources, plan.limit, skip_bad=plan.of_run, allow_incomplete=allowed
            )
        return held_out, train

    def _evaluators(
        self,
        model: Tokenizer,
        held_out: EvaluationSet | None,
        train: EvaluationSet | None,
        found: Measured,
        say: Callable[[str], object],
    ) -> dict[str, Evaluator]:
        """Those that can run; why others can't is added to `found`.

        No file is searched before all of them are known to fit tokenizer and sets.
        """
        from vtp_core.evaluation.runner import why_not

        plan = self.plan
        fit: dict[str, Evaluator] = {}
        for name, config in plan.evaluators.items():
            with self._reasons(name, found):
                kind: type[Evaluator] = self._plugins.find("evaluator", config.use).load_target()
                if not plan.asked and kind.on_request:
                    raise UsageError(f"{kind.on_request}; name it to run it: --evaluator {config.use}")
                sampled, lines = sampled_with(config, plan.settings, model)
                for line in lines:
                    say(line)
                evaluator = kind(sampled)
                if problem := why_not(evaluator, model, held_out, train):
                    named = f"evaluator {name}: {problem}; leave it out or change the data"
                    raise UsageError(named if plan.named else problem)
                fit[name] = evaluator
        for name, evaluator in fit.items():
            with self._reasons(name, found):
                config = plan.evaluators[name]
                if not plan.asked and (why := evaluator.must_download(config)):
                    raise UsageError(f"{why}; or name it to download them: --evaluator {config.use}")
                evaluator.load()
        return {name: evaluator for name, evaluator in fit.items() if name not in found.unfit}

    @contextmanager
    def _reasons(self, name: str, found: Measured) -> Iterator[None]:
        """A UsageError within, such as of weights that are not installed, leaves the evaluator out.

        It stays raised if the command line names the evaluators.
        """
        try:
            yield
        except UsageError as error:
            if self.plan.named:
                raise
            found.unfit[name] = str(error)


def first_failure(found: Sequence[Measured], named: bool) -> VtpError | None:
    """The error that the command ends with, or None.

    Data that an evaluator can't use is an error only if someone named the evaluator.
    """
    errors = [error for one in found for error in one.failures.values()]
    return next((error for error in errors if named or not isinstance(error, DataError | UsageError)), None)
