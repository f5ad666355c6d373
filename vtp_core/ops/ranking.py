"""The measured order of an operator's implementations on one device."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch

from vtp_core.ops.arguments import DTYPES

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
_MOST_CASES, _MOST_NAMES = 1000, 100


@dataclass(frozen=True, kw_only=True)
class MeasuredCase:
    """One case and the order that was measured for it.

    Attributes:
        kind: Pairs of attribute and value that a case must equal: a dtype, string, bool or None.
        sizes: Pairs of attribute and measured size.
        names: Implementations that agreed with the reference, the fastest first.
    """

    kind: tuple[tuple[str, object], ...]
    sizes: tuple[tuple[str, int], ...]
    names: tuple[str, ...]

    def distance(self, case: object) -> float | None:
        """Product of the ratios of all sizes, 1 for equal ones; None for a case of another kind."""
        for name, value in self.kind:
            if getattr(case, name) != value:
                return None
        product = 1.0
        for name, measured in self.sizes:
            size = max(getattr(case, name), 1)
            product *= size / measured if size > measured else measured / size
        return product


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Measured order of one operator's implementations on one device.

    Attributes:
        device: Device type, such as ``"cuda"``.
        cases: Measured cases; the nearest one of the same kind decides.
    """

    device: str
    cases: tuple[MeasuredCase, ...]

    def names(self, case: Any) -> tuple[str, ...]:
        """Implementations in the order measured for the nearest case, the fastest first; empty without one.

        Args:
            case: An `AttentionCase` or `SearchCase`.
        """
        found: tuple[str, ...] = ()
        least = None
        if case.device == self.device:
            for measured in self.cases:
                distance = measured.distance(case)
                if distance is not None and (least is None or distance < least):
                    found, least = measured.names, distance
        return found

    def data(self) -> dict[str, Any]:
        """As JSON data, for `from_data`."""
        cases = [
            {
                "case": {name: _word(value) for name, value in (*it.kind, *it.sizes)},
                "names": list(it.names),
            }
            for it in self.cases
        ]
        return {"device": self.device, "cases": cases}

    @classmethod
    def from_data(cls, data: object, attributes: Collection[str]) -> Self:
        """Reads untrusted JSON data.

        Args:
            data: As `data` gives it.
            attributes: Attributes that a case of the operator has.

        Raises:
            ValueError: The data has another structure or values out of range.
        """
        device, cases = (_table(data).get(key) for key in ("device", "cases"))
        if not isinstance(device, str) or not isinstance(cases, list) or len(cases) > _MOST_CASES:
            raise ValueError("no device or list of cases")
        return cls(device=device, cases=tuple(_read_case(it, attributes) for it in cases))


def _read_case(data: object, attributes: Collection[str]) -> MeasuredCase:
    case, names = (_table(data).get(key) for key in ("case", "names"))
    table = _table(case)
    if unknown := table.keys() - set(attributes):
        raise ValueError(f"a case has no {min(unknown)!r}")
    if not isinstance(names, list) or len(names) > _MOST_NAMES or not all(_is_name(name) for name in names):
        raise ValueError("a case without a list of names")
    kind: dict[str, object] = {}
    sizes: dict[str, int] = {}
    for name, value in table.items():
        if isinstance(value, int) and not isinstance(value, bool):
            if not 1 <= value < 2**63:
                raise ValueError(f"{name} of a case is {value}")
            sizes[name] = value
        elif value is None or isinstance(value, (bool, str)):
            kind[name] = _DTYPES.get(value, value) if isinstance(value, str) else value
        else:
            raise ValueError(f"{name} of a case is a {type(value).__name__}")
    return MeasuredCase(kind=tuple(kind.items()), sizes=tuple(sizes.items()), names=tuple(names))


def _table(data: object) -> Mapping[str, object]:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ValueError("no table")
    return data


def _is_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= 200


def _word(value: object) -> object:
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value
