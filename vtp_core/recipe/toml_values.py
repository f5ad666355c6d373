"""Reads TOML that may be hostile: within limits, one message for what is wrong. Imports no torch."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from vtp_core.recipe.problems import dotted

MAX_BYTES = 128 * 1024
"""Largest size of a text."""

MAX_DEPTH = 16
"""Deepest nesting of tables and lists."""

_ERROR_LINE = re.compile(r" \(at line (\d+), column \d+\)$")
_KEY = r"(?:[A-Za-z0-9_-]+|\"[^\"\n]*\"|'[^'\n]*')"
# A dotted key of too many parts; tomllib needs quadratic time for one.
_DEEP_KEY = re.compile(rf"(?:^|[\[{{,])[ \t]*(?:{_KEY}[ \t]*\.[ \t]*){{{MAX_DEPTH}}}", re.MULTILINE)
_TOO_DEEP = f"tables and lists are nested more than {MAX_DEPTH} deep"


class TomlError(ValueError):
    """A text that is not usable TOML.

    Attributes:
        line: Where, counted from 1; None if unknown.
        malformed: Whether its syntax is wrong, rather than a limit passed.
    """

    def __init__(self, message: str, line: int | None = None, *, malformed: bool = False) -> None:
        self.line = line
        self.malformed = malformed
        super().__init__(message)


def parse_toml(text: str) -> dict[str, Any]:
    """The values of a TOML text.

    Raises:
        TomlError: Not TOML, above a limit, an integer beyond 64 bits, or a string with a NUL character.
    """
    if len(text) > MAX_BYTES:
        raise TomlError(f"longer than {MAX_BYTES // 1024} KiB")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TomlError(f"not UTF-8 text (character {error.start})") from None
    if match := _DEEP_KEY.search(text):
        raise TomlError(_TOO_DEEP, text.count("\n", 0, match.end()) + 1)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _ERROR_LINE.search(str(error))
        line = int(place.group(1)) if place else text.count("\n") + 1
        message = f"not valid TOML: {_ERROR_LINE.sub('', str(error))}"
        raise TomlError(message, line, malformed=True) from None
    except RecursionError:
        raise TomlError(_TOO_DEEP) from None
    except ValueError:  # Python's limit on the digits of an integer
        raise TomlError("an integer does not fit into 64 bits") from None
    _check(values)
    return values


def read_plain(path: Path) -> str:
    """The text of a file; links are followed, pipes and devices are refused without waiting for them.

    Raises:
        OSError: It can't be read; `strerror` says why.
        UnicodeDecodeError: Not UTF-8.
        TomlError: Not a plain file, or larger than `MAX_BYTES`.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a device may already do something
        raise TomlError("not a plain file")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise TomlError(f"larger than {MAX_BYTES // 1024} KiB")
    # No newline translation: a lone "\r" must stay an error of tomllib.
    return data.decode("utf-8").removeprefix("\ufeff")


def _check(values: dict[str, Any]) -> None:
    """Refuses what TOML can hold and no key of a recipe may."""
    rest: list[tuple[tuple[str | int, ...], Any]] = [((), values)]
    while rest:
        path, value = rest.pop()
        if isinstance(value, dict | list):
            if len(path) >= MAX_DEPTH:
                raise TomlError(_TOO_DEEP)
            children = value.items() if isinstance(value, dict) else enumerate(value)
            rest.extend(((*path, key), child) for key, child in children)
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise TomlError(f"{dotted(path)}: the integer does not fit into 64 bits")
        elif isinstance(value, str) and "\0" in value:
            raise TomlError(f"{dotted(path)}: the string holds a NUL character")
        if path and isinstance(path[-1], str) and "\0" in path[-1]:
            raise TomlError("a key holds a NUL character")
