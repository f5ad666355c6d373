"""Problems of a recipe, each with its place, all of them in one error. Imports no torch."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vtp_core.errors import UsageError
from vtp_core.recipe.toml_lines import Path

COMMAND_LINE = "command line -s"
"""File name in the `Origin` of a value that an override set."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class Origin(NamedTuple):
    """Where a value was set.

    Attributes:
        file: As the user would name it, or `COMMAND_LINE`.
        line: Counted from 1; 0 on the command line.
        tag: One of `vtp_core.recipe.toml_lines.TAGS`, or None.
    """

    file: str
    line: int
    tag: str | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        place: Where the value was set, or the table that lacks it.
        key: Dotted key path, or "" for the file as a whole.
        message: What is wrong and what would be right, on one line.
    """

    place: Origin
    key: str
    message: str


class RecipeErrors(UsageError):
    """All problems of a recipe.

    Attributes:
        problems: Ordered by file and line.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        files = list(dict.fromkeys(problem.place.file for problem in problems if problem.place.line))
        files.append(COMMAND_LINE)
        self.problems = tuple(
            sorted(problems, key=lambda problem: (files.index(problem.place.file), problem.place.line))
        )
        super().__init__("\n".join(_lines(self.problems)))


def _lines(problems: Sequence[Problem]) -> list[str]:
    places = [str(problem.place) for problem in problems]
    place_width = max(map(len, places), default=0)
    key_width = max((len(problem.key) for problem in problems), default=0)
    lines = [
        f"{place:<{place_width}}  {problem.key:<{key_width}}  {problem.message}"
        for place, problem in zip(places, problems, strict=True)
    ]
    count = len(problems)
    return [*lines, f"{count} error{'' if count == 1 else 's'}; nothing was started."]


def dotted(path: Path) -> str:
    """A key path as TOML writes it, list indices in brackets: ``views.ssl.crops``, ``a."b c"[0]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + quoted_key(part)
    return text


def quoted_key(key: str) -> str:
    """A key as TOML writes it: bare if possible."""
    return key if _BARE_KEY.fullmatch(key) else quoted(key)


def quoted(text: str) -> str:
    """A TOML string on one line: JSON's escapes, and DEL escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def alike(name: str, known: Iterable[str]) -> str | None:
    """The name among `known` that differs in case, or in ``-`` for ``_``, at most."""

    def plain(text: str) -> str:
        return text.replace("_", "-").casefold()

    return next((other for other in known if plain(other) == plain(name)), None)


def closest(name: str, known: Iterable[str]) -> str | None:
    """The name among `known` that was most likely meant."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``did you mean "x"?``, or a list of the known names."""
    known = sorted(known)
    if meant := closest(name, known):
        return f'did you mean "{meant}"?'
    return f"there are: {', '.join(known)}" if known else "there are none"
