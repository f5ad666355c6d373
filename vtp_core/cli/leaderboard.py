"""``vtp eval --leaderboard``: several tokenizers in one table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vtp_core.cli.arguments.options import torch_device
from vtp_core.cli.output import printable, table
from vtp_core.errors import VtpError

if TYPE_CHECKING:
    from vtp_core.cli.measuring import Measured, Measuring
    from vtp_core.leaderboard.board import Board, Cell
    from vtp_core.plugins import Plugins
    from vtp_core.tokenizer import Tokenizer


def opened(folder: Path, plugins: Plugins, device: str, fast: bool) -> Tokenizer:
    """The tokenizer of a folder on a device, prepared by plugins if `fast`."""
    from vtp_core.artefact.loading import load
    from vtp_core.artefact.preparation import prepare

    model = load(folder, plugins=plugins)
    model.to(torch_device(device))
    for line in prepare(model, plugins) if fast else ():
        click.echo(line, err=True)
    return model


def compare(
    folders: Mapping[str, Path],
    measuring: Measuring,
    plugins: Plugins,
    *,
    device: str,
    fast: bool,
    as_json: bool,
    output: Path | None,
    html: Path | None,
) -> None:
    """Measures tokenizers one after the other and prints and writes their table.

    One that can't be read or measured has a row that says so, and its error ends the command after the rest.

    Args:
        folders: Name -> folder or file.
        measuring: What is measured of each.
        plugins: The installed ones.
        device: Where to compute.
        fast: Whether plugins prepare the tokenizers.
        as_json: Whether JSON is printed.
        output: A file for the same JSON, or None.
        html: A file for the page, or None.

    Raises:
        VtpError: The first that a tokenizer or an evaluator raised.
    """
    from vtp_core.artefact.loading import license_of
    from vtp_core.atomic import write_json, write_text
    from vtp_core.cli.measuring import first_failure
    from vtp_core.leaderboard.board import Board
    from vtp_core.leaderboard.cost import measure_cost
    from vtp_core.leaderboard.page import render
    from vtp_core.leaderboard.row import Row
    from vtp_core.run.progress import show_pass

    rows: list[Row] = []
    found: list[Measured] = []
    errors: list[VtpError] = []
    for name, folder in folders.items():
        say = _Named(name)
        try:
            model = opened(folder, plugins, device, fast)
            measured = measuring.measure(model, say)
        except VtpError as error:
            errors.append(error)
            say(f"left out: {' '.join(str(error).split())}")
            continue
        found.append(measured)
        for evaluator, why in measured.left_out.items():
            say(f"left out: {evaluator}: {why}")
        with show_pass(f"speed of {name}"):
            cost = measure_cost(model)
        rows.append(
            Row(
                name=name,
                license=license_of(folder, model, plugins),
                cost=cost,
                results=measured.results,
                left_out={**measured.unfit, **measured.left_out},
            )
        )
        del model
    if not rows:
        raise errors[0]
    board = Board(rows)
    click.echo(json.dumps(board.written(), indent=2) if as_json else board_text(board))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, board.written())
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        write_text(html, render(board))
        click.echo(f"leaderboard: {html}", err=True)
    if failure := next(iter(errors), None) or first_failure(found, measuring.plan.named):
        raise failure


class _Named:
    """Prints lines on standard error behind a name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, line: str) -> None:
        click.echo(f"{self._name}: {line}", err=True)


def board_text(board: Board) -> str:
    """A line for each number and a column for each tokenizer, then the protocols."""
    lines: list[tuple[str, ...]] = [("", *(printable(row.name) for row in board.rows), "better")]
    for column in board.columns:
        title = f"{column.title}, {column.unit}" if column.unit else column.title
        lines.append((printable(title), *map(_cell, column.cells), column.better))
    protocols = dict.fromkeys(column.protocol for column in board.columns if column.protocol)
    return "\n".join(
        [
            table(lines),
            *(f"protocol: {protocol}" for protocol in protocols),
            *(f"[{at}] not comparable: {note}" for at, note in enumerate(board.notes, 1)),
            f"images a second: wall-clock time, {'; '.join(board.rates)}",
        ]
    )


def _cell(cell: Cell) -> str:
    mark = f" [{cell.mark}]" if cell.mark else ""
    best = " *" if cell.best else ""
    return f"{printable(cell.text)}{best}{mark}"
