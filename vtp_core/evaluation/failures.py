"""Evaluators that fail, while the others are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from vtp_core import errors
from vtp_core.errors import NumericError, Preempted, VtpError, known_error
from vtp_core.evaluation.gathering import Gathering

_T = TypeVar("_T")


class Failures:
    """Which evaluators failed, here or on another rank.

    Args:
        kept: Gets evaluator -> error in `agree`; None: whatever is raised stays raised.
    """

    def __init__(self, kept: dict[str, VtpError] | None) -> None:
        self._kept = kept
        self._found: dict[str, VtpError] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._found

    @contextmanager
    def of(self, name: str, keys: Sequence[str] = ()) -> Iterator[None]:
        """What is raised within is the failure of one evaluator; its NumericErrors name it and the sample.

        Args:
            name: The evaluator.
            keys: Keys of the batch.
        """
        with self.of_all([name]):
            try:
                yield
            except NumericError as error:
                known = error.row is not None and error.row < len(keys)
                sample = f"sample {keys[error.row]}: " if error.row is not None and known else ""
                raise NumericError(f"evaluator {name}: {sample}{error}") from error

    @contextmanager
    def of_all(self, names: Iterable[str]) -> Iterator[None]:
        """What is raised within is the failure of these evaluators, such as a sample that can't be read."""
        try:
            yield
        except Preempted:
            raise
        except Exception as error:  # of any kind: evaluators come from plugins
            if self._kept is None:
                raise
            for name in names:
                self._found.setdefault(name, _public(name, error))

    def on_first(self, ranks: Gathering, names: Sequence[str], action: Callable[[], _T]) -> _T | None:
        """What `action` returns on rank 0; None on all ranks if it fails, which is the failure of `names`."""
        if self._kept is None:
            return ranks.from_first(action)

        def attempt() -> tuple[_T | None, dict[str, VtpError]]:
            made: _T | None = None
            before = set(self._found)
            with self.of_all(names):
                made = action()
            return made, {name: error for name, error in self._found.items() if name not in before}

        result, found = ranks.from_first(attempt)
        self._note(found)
        return result

    def agree(self, ranks: Gathering) -> None:
        """Learns of the failures on other ranks; every rank calls it."""
        for found in ranks.gather_objects(self._found):
            self._note(found)

    def _note(self, found: dict[str, VtpError]) -> None:
        for name, error in found.items():
            self._found.setdefault(name, error)
            if self._kept is not None:
                self._kept.setdefault(name, self._found[name])


def reason(name: str, error: VtpError) -> str:
    """Why an evaluator gave no number, on one line and without its name."""
    return " ".join(str(error).removeprefix(f"evaluator {name}: ").split())


def _public(name: str, error: Exception) -> VtpError:
    """The error as a class of `vtp_core.errors`, so that any rank can receive it; names the evaluator."""
    known = error if isinstance(error, VtpError) else known_error(error)
    kinds = (kind for kind in type(known).__mro__ if kind.__module__ == errors.__name__)
    kind: type[VtpError] = next(kinds, VtpError)
    text = f"{type(error).__name__}: {error}" if known is None else str(known)
    return kind(f"evaluator {name}: {text.removeprefix(f'evaluator {name}: ')}")
