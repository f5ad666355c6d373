"""The table as a page: one file, offline; without JavaScript only its sorting is missing."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from itertools import groupby

import jinja2

import vtp_core
from vtp_core.leaderboard.board import Board

GROUPS = {
    "fidelity": "Fidelity",
    "understanding": "Understanding",
    "generation": "Generation",
    "cost": "Size, speed, license",
}


def render(board: Board) -> str:
    """The page as text."""
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
    return environment.get_template("leaderboard.html.j2").render(
        board=board,
        groups=groups,
        version=vtp_core.__version__,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
