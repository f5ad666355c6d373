"""Positions of the keys of a TOML file: key path -> line and origin tag. Imports no torch.

`tomllib` keeps no positions. This scanner reads text that `tomllib` has accepted, so it checks nothing.
"""

from __future__ import annotations

import re
from typing import NamedTuple

Path = tuple[str | int, ...]
"""Keys and list indices from the root to a value."""

TAGS = ("paper", "author", "upstream", "ours")
"""Origins that a comment after a value may name."""

_TAG = re.compile(rf"#\s*\[({'|'.join(TAGS)})\]")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\r\n]+")
_BLANK = re.compile(r"[ \t]*")
_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(["\\bfnrt]))')
_CONTROL = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class Position(NamedTuple):
    """Place of a key in a file.

    Attributes:
        line: Counted from 1; of an array over several lines, each element has its own.
        tag: One of `TAGS`, from a comment such as ``# [paper]`` after the value, or None.
    """

    line: int
    tag: str | None


def scan(text: str) -> dict[Path, Position]:
    """Positions of all tables, keys and array elements of a valid TOML text.

    Entries of an inline table or a one-line array have the line and tag of its key; a table without a header
    has the line of its first child.
    """
    return _Scanner(text.replace("\r\n", "\n")).run()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.counted = 0  # `lines` is the number of line ends before this position
        self.lines = 0
        self.positions: dict[Path, Position] = {}
        self.lengths: dict[Path, int] = {}  # of arrays of tables, so far

    def run(self) -> dict[Path, Position]:
        table: Path = ()
        while True:
            self.skip_space()
            if self.at >= len(self.text):
                return self.positions
            if self.text[self.at] == "[":
                table = self.header()
                continue
            start = len(self.positions)
            self.key_and_value(table)
            if tag := self.trailing_tag():
                for path in list(self.positions)[start:]:
                    line, own = self.positions[path]
                    self.positions[path] = Position(line, own or tag)

    def line(self) -> int:
        self.lines += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.lines + 1

    def put(self, path: Path, line: int) -> None:
        """Records `path` and its parents that are new."""
        for length in range(1, len(path)):
            self.positions.setdefault(path[:length], Position(line, None))
        self.positions[path] = Position(line, None)

    def header(self) -> Path:
        """``[table]`` or ``[[element of an array of tables]]``."""
        line = self.line()
        brackets = 2 if self.text.startswith("[[", self.at) else 1
        self.at += brackets
        keys = self.keys()
        self.skip_blank()
        self.at += brackets
        path: Path = ()
        for index, key in enumerate(keys):
            path = (*path, key)
            if index == len(keys) - 1 and brackets == 2:
                self.lengths[path] = self.lengths.get(path, 0) + 1
                self.positions.setdefault(path, Position(line, None))
            if path in self.lengths:
                path = (*path, self.lengths[path] - 1)
        self.put(path, line)
        return path

    def key_and_value(self, table: Path) -> None:
        line = self.line()
        path = (*table, *self.keys())
        self.put(path, line)
        self.skip_blank()
        self.at += 1  # the equals sign
        self.skip_blank()
        self.value(path)

    def keys(self) -> list[str]:
        """A dotted key."""
        keys = []
        while True:
            self.skip_blank()
            if self.text[self.at] in "\"'":
                keys.append(self.string())
            else:
                keys.append(self.take(_BARE_KEY))
            self.skip_blank()
            if self.text[self.at] != ".":
                return keys
            self.at += 1

    def value(self, path: Path) -> None:
        first = self.text[self.at]
        if first in "\"'":
            self.string()
        elif first == "[":
            self.array(path)
        elif first == "{":
            self.inline_table(path)
        else:
            self.take(_SCALAR)

    def array(self, path: Path) -> None:
        self.at += 1
        index = 0
        while True:
            self.skip_space()
            if self.text[self.at] == "]":
                break
            element = (*path, index)
            self.put(element, self.line())
            self.value(element)
            tag = self.trailing_tag()
            self.skip_space()
            if self.text[self.at] == ",":
                self.at += 1
                tag = tag or self.trailing_tag()
            if tag:
                self.positions[element] = Position(self.positions[element].line, tag)
            index += 1
        self.at += 1

    def inline_table(self, path: Path) -> None:
        self.at += 1
        while True:
            self.skip_space()
            if self.text[self.at] == "}":
                break
            self.key_and_value(path)
            self.skip_space()
            if self.text[self.at] == ",":
                self.at += 1
        self.at += 1

    def string(self) -> str:
        """A string of any of the four kinds; the returned value is exact for keys, which have one line."""
        quote = self.text[self.at]
        delimiter = quote * 3 if self.text.startswith(quote * 3, self.at) else quote
        start = self.at = self.at + len(delimiter)
        while not self.text.startswith(delimiter, self.at):
            self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
        # Up to two quotes may come right before a closing triple.
        while len(delimiter) == 3 and self.text.startswith(quote, self.at + 3):
            self.at += 1
        content = self.text[start : self.at]
        self.at += len(delimiter)
        return _ESCAPE.sub(_unescape, content) if quote == '"' else content

    def take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"line {self.line()}: not valid TOML")
        self.at = match.end()
        return match.group()

    def skip_blank(self) -> None:
        self.take(_BLANK)

    def skip_space(self) -> None:
        """Skips blanks, line ends and comments."""
        while self.at < len(self.text):
            if self.text[self.at] == "#":
                self.at = self.line_end()
            elif self.text[self.at] in " \t\r\n":
                self.at += 1
            else:
                return

    def line_end(self) -> int:
        end = self.text.find("\n", self.at)
        return len(self.text) if end < 0 else end

    def trailing_tag(self) -> str | None:
        """Tag in the comment that follows on this line, or None."""
        self.skip_blank()
        if self.text[self.at : self.at + 1] != "#":
            return None
        match = _TAG.match(self.text, self.at)
        return match.group(1) if match else None


def _unescape(match: re.Match[str]) -> str:
    short, long, single = match.groups()
    if single:
        return _CONTROL.get(single, single)
    return chr(int(short or long, 16))
