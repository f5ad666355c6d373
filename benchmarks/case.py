"""What a benchmark case is: one question, several ways to answer it, and a check that they agree."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import benchmarks.cases


class CaseError(Exception):
    """A case that can't be run as asked."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison.

    Attributes:
        name: The name of its file.
        question: What the numbers decide, in one sentence.
        rows: Samples, vectors or tokens that one call handles; rates are per row.
        unit: What a row is, in the plural.
        variants: Name -> a call without arguments, inputs bound beforehand. The first is the reference.
        check: Compares a variant's result with the reference's: a sentence if they disagree, else None.
    """

    name: str
    question: str
    rows: int
    unit: str
    variants: Mapping[str, Callable[[], object]]
    check: Callable[[object, object], str | None]

    @property
    def reference(self) -> str:
        """Name of the first variant."""
        return next(iter(self.variants))


def names() -> list[str]:
    """The cases, one for each file of benchmarks/cases."""
    return sorted(module.name for module in pkgutil.iter_modules(benchmarks.cases.__path__))


def load(name: str) -> Case:
    """Builds a case, inputs included.

    Raises:
        CaseError: There is no such case.
    """
    if name not in names():
        raise CaseError(f'no case "{name}"; there are: {", ".join(names())}')
    case = importlib.import_module(f"benchmarks.cases.{name}").build()
    assert isinstance(case, Case)
    return case
