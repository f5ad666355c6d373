"""Tables of tokenizers and runs as pages: one file, offline; without JavaScript only sorting is missing."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from itertools import groupby

import jinja2

import vtp_core
from vtp_core.leaderboard.board import Board
from vtp_core.leaderboard.runs import Comparison

GROUPS = {
    "fidelity": "Fidelity",
    "understanding": "Understanding",
    "generation": "Generation",
    "cost": "Size, speed, license",
}


def render(board: Board) -> str:
    """The page of a table of tokenizers."""
    return _render("leaderboard.html.j2", board)


def render_runs(comparison: Comparison) -> str:
    """The page of several runs."""
    return _render("runs.html.j2", comparison.board, comparison=comparison)


def _render(template: str, board: Board, **more: object) -> str:
    loader = jinja2.ChoiceLoader(
        [jinja2.PackageLoader("vtp_core.leaderboard"), jinja2.PackageLoader("vtp_core.report")]
    )
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script = (files("vtp_core.leaderboard") / "templates" / "sort.js").read_text(encoding="utf-8")
    groups = [
        {"title": GROUPS[name], "count": len(list(columns))}
        for name, columns in groupby(board.columns, key=lambda column: column.group)
    ]
    return environment.get_template(template).render(
        board=board,
        groups=groups,
        version=vtp_core.__version__,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **more,
    )
