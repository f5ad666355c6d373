"""``vtp eval --leaderboard``: several tokenizers in one table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vtp_core.cli.arguments.generator import sampled_with
from vtp_core.cli.arguments.options import torch_device
from vtp_core.cli.output import printable, table
from vtp_core.errors import UsageError, VtpError

if TYPE_CHECKING:
    from vtp_core.cli.measuring import Measured, Measuring, Plan
    from vtp_core.leaderboard.board import Board, Cell
    from vtp_core.leaderboard.row import Row
    from vtp_core.plugins import Plugins
    from vtp_core.tokenizer import Tokenizer


def opened(folder: Path, plugins: Plugins, device: str) -> Tokenizer:
    """The tokenizer of a folder on a device."""
    from vtp_core.artefact.loading import load

    model = load(folder, plugins=plugins)
    model.to(torch_device(device))
    return model


def prepared(model: Tokenizer, plugins: Plugins, fast: bool, say: Callable[[str], object]) -> Tokenizer:
    """The same tokenizer, prepared by plugins for inference if `fast`."""
    from vtp_core.artefact.preparation import prepare

    for line in prepare(model, plugins) if fast else ():
        say(line)
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
        UsageError: No generator can follow the settings that the command line gives.
        Exception: The first that a tokenizer or an evaluator raised, after the table is written.
    """
    from vtp_core.atomic import write_json, write_text
    from vtp_core.cli.measuring import first_failure
    from vtp_core.leaderboard.board import Board
    from vtp_core.leaderboard.page import render
    from vtp_core.leaderboard.row import Row

    _check_settings(folders.values(), measuring.plan, plugins)
    rows: list[Row] = []
    found: list[Measured] = []
    errors: list[Exception] = []
    for name, folder in folders.items():
        try:
            rows.append(_row(name, folder, measuring, plugins, device, fast, found))
        except Exception as error:  # of any kind: the tokenizers before it are measured already
            why = " ".join(f"{error}".split()) or type(error).__name__
            click.echo(f"{name}: left out: {why}", err=True)
            errors.append(error)
            rows.append(Row(name=name, results={}, left_out={"tokenizer": why}))
    if len(errors) == len(rows):
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


def _check_settings(folders: Iterable[Path], plan: Plan, plugins: Plugins) -> None:
    """Refuses settings that no generator can follow, as far as artefacts tell without their weights."""
    from vtp_core.artefact.config import is_artefact
    from vtp_core.artefact.finding import run_of_checkpoint
    from vtp_core.artefact.folder import outline_artefact

    refused: list[UsageError] = []
    for folder in folders if plan.settings else ():
        if run_of_checkpoint(folder) is not None:
            return
        if not is_artefact(folder):  # of another project, whose formats hold no generators
            continue
        try:
            model = outline_artefact(folder, plugins)
        except VtpError:  # its row will say so
            continue
        if "generate" not in model.exports:
            continue
        try:
            for table in plan.evaluators.values():
                sampled_with(table, plan.settings, model)
            return
        except UsageError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def _row(
    name: str,
    folder: Path,
    measuring: Measuring,
    plugins: Plugins,
    device: str,
    fast: bool,
    found: list[Measured],
) -> Row:
    """Measures one tokenizer; what was measured is added to `found`."""
    from vtp_core.artefact.license import license_of
    from vtp_core.leaderboard.cost import count_cost, with_rates
    from vtp_core.leaderboard.row import Row
    from vtp_core.run.progress import show_pass

    def say(line: str) -> None:
        click.echo(f"{name}: {line}", err=True)

    model = opened(folder, plugins, device)
    cost = count_cost(model)
    prepared(model, plugins, fast, say)
    measured = measuring.measure(model, say)
    for evaluator, why in measured.left_out.items():
        say(f"left out: {evaluator}: {why}")
    with show_pass(f"speed of {name}"):
        cost = with_rates(cost, model)
    found.append(measured)
    return Row(
        name=name,
        license=license_of(model),
        cost=cost,
        results=measured.results,
        left_out={**measured.unfit, **measured.left_out},
    )


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
    beside = f" ({cell.beside})" if cell.beside else ""
    return printable(f"{cell.text}{beside}") + best + mark
