"""What a benchmark case is: one question, several ways to answer it, and a check that they agree."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import ModuleType

from vtp_plugins.bench.config import BenchOptions, Precision
from vtp_plugins.kernels.timing import Clock

CASES = "vtp_plugins.bench.cases"

_NO_MEMORY = ("can't allocate memory", "out of memory", "Storage size calculation overflowed")
"""Texts of torch's RuntimeErrors when memory runs out."""


class CaseError(Exception):
    """A case that can't be run as asked."""


@dataclass(frozen=True, kw_only=True)
class BenchCase:
    """One comparison on one shape.

    Attributes:
        name: The name of its file.
        question: What the numbers decide, in one sentence.
        rows: Samples, vectors or tokens that one call handles; rates are per row.
        unit: What a row is, in the plural.
        variants: Name -> a call without arguments, inputs bound beforehand. The first is the reference.
        check: Compares a variant's result with the reference's: a sentence if they disagree, else None.
        shape: The shape as it was asked for.
        flop: Floating point operations of one call that no implementation can avoid; None: not counted.
        peak: Whose peak the rate is compared with.
        skipped: Peer -> why it is not among the variants.
        limit: Seconds that a call takes at least on the device at hand, on paper; None: not known.
        parts: Part of the reference -> makes a call of it and returns the seconds that the part took in it.
            Small parts show so, which two variants can't tell apart: each finds other caches.
    """

    name: str
    question: str
    rows: int
    unit: str
    variants: Mapping[str, Callable[[], object]]
    check: Callable[[object, object], str | None]
    shape: str = ""
    flop: float | None = None
    peak: Precision = "float32"
    skipped: Mapping[str, str] = field(default_factory=dict)
    limit: float | None = None
    parts: Mapping[str, Callable[[Clock], float]] = field(default_factory=dict)

    @property
    def reference(self) -> str:
        """Name of the first variant."""
        return next(iter(self.variants))


def names(packages: Sequence[str] = (CASES,)) -> list[str]:
    """The cases of packages, one for each of their modules."""
    return sorted(_modules(packages))


def shapes(name: str, packages: Sequence[str] = (CASES,)) -> tuple[str, ...]:
    """The shapes that a case runs when none is named, the cheapest first.

    Raises:
        CaseError: There is no such case.
    """
    return tuple(_module(name, packages).SHAPES)


def load(name: str, shape: str, options: BenchOptions, packages: Sequence[str] = (CASES,)) -> BenchCase:
    """Builds a case, inputs included.

    Args:
        name: One of `names`.
        shape: In the format of the case (its module's `FORMAT`).
        options: Precision, device, threads.
        packages: Where cases are looked for.

    Raises:
        CaseError: There is no such case, the shape can't be read, or it needs too much memory.
    """
    module = _module(name, packages)
    with complaints(f"{name}: shape {shape!r}", f"; write it as {module.FORMAT}"):
        case = module.build(shape, options)
    assert isinstance(case, BenchCase) and case.name == name
    return case


@contextmanager
def complaints(what: str, advice: str = "") -> Iterator[None]:
    """Turns errors of operators and allocators into a one-line `CaseError`.

    Raises:
        CaseError: There was a ValueError, or too little memory.
    """
    try:
        yield
    except ValueError as error:
        raise CaseError(f"{what}: {error}{advice}") from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in _NO_MEMORY):
            raise
        raise CaseError(f"{what}: needs more memory than there is") from error


def compare(case: BenchCase) -> None:
    """Runs every variant once and compares its result with the reference's.

    Raises:
        CaseError: A variant computes something else; its time would mean nothing.
    """
    expected = case.variants[case.reference]()
    for name, call in case.variants.items():
        if complaint := case.check(call(), expected):
            raise CaseError(f"{case.name}: {name} disagrees with {case.reference}: {complaint}")


def select(case: BenchCase, parts: Sequence[str]) -> BenchCase:
    """The case with its reference and the variants whose names contain one of `parts`.

    Raises:
        CaseError: A part is in no name.
    """
    for part in parts:
        if not any(part.strip() in name for name in case.variants):
            raise CaseError(
                f'{case.name}: no variant "{part.strip()}"; there are: {", ".join(case.variants)}'
            )
    kept = {
        name: call
        for name, call in case.variants.items()
        if name == case.reference or any(part.strip() in name for part in parts)
    }
    return replace(case, variants=kept)


def _modules(packages: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for package in packages:
        paths = importlib.import_module(package).__path__
        found |= {item.name: f"{package}.{item.name}" for item in pkgutil.iter_modules(paths)}
    return found


def _module(name: str, packages: Sequence[str]) -> ModuleType:
    found = _modules(packages)
    if name not in found:
        raise CaseError(f'no case "{name}"; there are: {", ".join(sorted(found))}')
    return importlib.import_module(found[name])
