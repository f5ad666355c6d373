"""The columns and cells of the table; numbers of other protocols than their column's are marked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vtp_core.evaluation.protocol import shown, shown_beside
from vtp_core.leaderboard.cost import HALF_PRECISION_BITS, Cost
from vtp_core.leaderboard.row import Row
from vtp_core.view import size_text

NOTHING = "-"
"""Cell of what was not measured."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number or text of the table.

    Attributes:
        text: What is shown.
        value: What it is sorted by, or None.
        interval: The 95 % interval as text, or empty.
        beside: Further numbers without which it can't be read, or empty.
        verdict: Beside the strongest trivial answer: better, within noise, worse; or empty.
        mark: Number of the note on its protocol; 0 if it has that of its column.
        best: Whether no number of the same protocol in its column is better.
    """

    text: str
    value: float | None = None
    interval: str = ""
    beside: str = ""
    verdict: str = ""
    mark: int = 0
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Column:
    """What is shown of every tokenizer.

    Attributes:
        title: Its heading.
        group: What it is about: ``fidelity``, ``understanding``, ``generation`` or ``cost``.
        unit: Of its numbers, or empty.
        better: ``higher``, ``lower`` or empty.
        protocol: Of its numbers without a mark; empty for what is counted.
        cells: One for each tokenizer.
    """

    title: str
    group: str
    unit: str = ""
    better: str = ""
    protocol: str = ""
    cells: tuple[Cell, ...]


class Board:
    """The table of some tokenizers.

    Args:
        rows: One for each, in the order in which they are shown.

    Attributes:
        rows: The same.
        columns: The metrics by what they are about; then sizes, speeds and licenses, if a row has them.
        notes: How the protocols of marked numbers differ; mark i is ``notes[i - 1]``.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)
        self.notes: list[str] = []
        keys = dict.fromkeys(key for row in rows for key in row.results)
        metrics = [self._metric(key) for key in keys]
        order = ("fidelity", "understanding", "generation")
        metrics.sort(key=lambda column: order.index(column.group))
        costs = [row.cost for row in rows]
        known = (*_costs(costs), self._licenses()) if any(costs) else ()
        self.columns = (*metrics, *known)

    def written(self) -> dict[str, Any]:
        """The table as JSON."""
        return {
            "tokenizers": [
                {
                    "name": row.name,
                    "license": row.license or None,
                    "cost": None if row.cost is None else asdict(row.cost),
                    "results": dict(row.results),
                    "left_out": dict(row.left_out),
                }
                for row in self.rows
            ]
        }

    @property
    def rates(self) -> tuple[str, ...]:
        """How the rates of the tokenizers were measured, each once."""
        return tuple(dict.fromkeys(row.cost.measured for row in self.rows if row.cost and row.cost.measured))

    def _metric(self, key: str) -> Column:
        entries = [row.results.get(key) for row in self.rows]
        there = [entry for entry in entries if entry is not None]
        first = there[0]
        (protocol, _), *_ = Counter(str(entry["protocol"]) for entry in there).most_common(1)
        sign = 1 if first["higher_is_better"] else -1
        best = max(sign * float(entry["value"]) for entry in there if str(entry["protocol"]) == protocol)
        return Column(
            title=str(first["title"]),
            group=str(first["aspect"]),
            unit=str(first["unit"]),
            better="higher" if sign > 0 else "lower",
            protocol=protocol,
            cells=tuple(self._cell(entry, protocol, sign, best) for entry in entries),
        )

    def _cell(self, entry: Mapping[str, Any] | None, protocol: str, sign: int, best: float) -> Cell:
        if entry is None:
            return Cell(text=NOTHING)
        plain = {**entry, "unit": ""}
        bounds = entry["interval"]
        same = str(entry["protocol"]) == protocol
        value = float(entry["value"])
        return Cell(
            text=shown(value, plain),
            value=value,
            interval="" if bounds is None else " to ".join(shown(bound, plain) for bound in bounds),
            beside=shown_beside(entry),
            verdict=str(entry["verdict"] or ""),
            mark=0 if same else self._mark(_difference(str(entry["protocol"]), protocol)),
            best=same and len(self.rows) > 1 and sign * value == best,
        )

    def _mark(self, difference: str) -> int:
        if difference not in self.notes:
            self.notes.append(difference)
        return self.notes.index(difference) + 1

    def _licenses(self) -> Column:
        cells = tuple(
            Cell(text=NOTHING if row.cost is None else row.license or "not stated") for row in self.rows
        )
        return Column(title="license of the weights", group="cost", cells=cells)


def _difference(protocol: str, columns: str) -> str:
    """Where a protocol differs from that of its column."""
    own, other = protocol.split("; "), columns.split("; ")
    return (
        f"{'; '.join(part for part in own if part not in other) or 'less'}, "
        f"where the column has {'; '.join(part for part in other if part not in own) or 'less'}"
    )


def _costs(costs: Sequence[Cost | None]) -> list[Column]:
    def column(
        title: str, text: Callable[[Cost], str], value: Callable[[Cost], float | None], better: str = ""
    ) -> Column:
        cells = tuple(
            Cell(text=NOTHING) if cost is None else Cell(text=text(cost), value=value(cost)) for cost in costs
        )
        return Column(title=title, group="cost", better=better, cells=cells)

    return [
        column("image size, px", lambda c: size_text(c.image_size), lambda c: None),
        column("latent", _latent, lambda c: None),
        column("tokens an image", lambda c: str(c.tokens), lambda c: c.tokens),
        column(
            f"bits an image (continuous latents: {HALF_PRECISION_BITS} a number)",
            lambda c: f"{c.bits:,}",
            lambda c: c.bits,
            "lower",
        ),
        column("parameters, encoder", lambda c: _short(c.encoder_parameters), lambda c: c.encoder_parameters),
        column("parameters, decoder", lambda c: _short(c.decoder_parameters), lambda c: c.decoder_parameters),
        column("FLOPs, encode", lambda c: _short(c.encode_flops), lambda c: c.encode_flops, "lower"),
        column("FLOPs, decode", lambda c: _short(c.decode_flops), lambda c: c.decode_flops, "lower"),
        column("images a second, encode", lambda c: _short(c.encode_rate), lambda c: c.encode_rate, "higher"),
        column("images a second, decode", lambda c: _short(c.decode_rate), lambda c: c.decode_rate, "higher"),
    ]


def _latent(cost: Cost) -> str:
    shape = " x ".join(map(str, cost.latent))
    if not cost.codebooks:
        return shape
    if len(set(cost.codebooks)) == 1 and len(cost.codebooks) > 1:
        return f"{shape}, {len(cost.codebooks)} codebooks of {cost.codebooks[0]:,}"
    return f"{shape}, codes of {', '.join(f'{codes:,}' for codes in cost.codebooks)}"


def _short(value: float | None) -> str:
    """A count with three digits and a letter: 4.77M."""
    if value is None:
        return NOTHING
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
