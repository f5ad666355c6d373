"""The line scanner against documents whose lines are known, and against cutting the text off line by line."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtp_core.recipe.toml_lines import Position, scan

# Text that would mislead a scanner which doesn't know strings and comments.
TRICKY = ["", "a = 1", "# [paper]", "[x]", "]", "}", ",", "'", "=", "[[x]]", '\\"', "\\\\", "é", "\\u00e9"]
KEYS = ["a", "b-1", "1", '"q.d"', "'li#t'", '"k=\\u0041"', "z_"]


basic = st.sampled_from(TRICKY).map(lambda text: f'"{text}"')
literal = st.sampled_from([text for text in TRICKY if "'" not in text]).map(lambda text: f"'{text}'")
bare = st.sampled_from(["1", "-2.5e-3", "true", "inf", "1979-05-27T07:32:00Z", "1979-05-27 07:32:00", "0xf"])
one_line = st.recursive(
    basic | literal | bare,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: "[" + ", ".join(parts) + "]")
        | st.lists(inner, max_size=3).map(
            lambda parts: "{ " + ", ".join(f"k{index} = {part}" for index, part in enumerate(parts)) + " }"
        )
    ),
    max_leaves=5,
)
long_string = st.lists(
    st.sampled_from([text for text in TRICKY if "'" not in text]), min_size=2, max_size=4
).map("\n".join)
many_lines = long_string.map(lambda text: f'"""{text}"""') | long_string.map(lambda text: f"'''\n{text}'''")
comment = st.sampled_from(["", "  # note", "# [paper]", " # [ours] more", "  #[upstream]", " # see [paper]"])
noise = st.sampled_from(["", "\n", "# [t]\n", "   \n# a = 1\n", "\t\n"])


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[tuple[str | int, ...], int]]:
    """A document and the line of each key and table that its writer meant to put there."""
    text, lines = "", {}

    def here() -> int:
        return text.count("\n") + 1

    def parsed(key: str) -> str:
        return next(iter(tomllib.loads(f"{key} = 1")))

    def body(path: tuple[str | int, ...]) -> None:
        nonlocal text
        for key in draw(st.lists(st.sampled_from(KEYS), unique_by=parsed, max_size=4)):
            text += draw(noise)
            dots = draw(st.booleans())
            full = (*path, parsed(key), "in ner") if dots else (*path, parsed(key))
            for length in range(len(path) + 1, len(full) + 1):
                lines.setdefault(full[:length], here())
            spelled = f'{key} . "in ner"' if dots else key
            text += f"  {spelled}={draw(one_line | many_lines)}{draw(comment)}\n"

    body(())
    for index in range(draw(st.integers(0, 3))):
        text += draw(noise)
        name, count = f"t{index}", draw(st.integers(0, 2))
        if count == 0:
            lines[name,] = lines[name, "sub"] = here()
            text += f"[ {name}.sub ]{draw(comment)}\n"
            body((name, "sub"))
        for element in range(count):
            lines.setdefault((name,), here())
            lines[name, element] = here()
            text += f"[[{name}]]{draw(comment)}\n"
            body((name, element))
            if draw(st.booleans()):
                lines[name, element, "deep"] = here()
                text += f"[{name}.deep]\n"
                body((name, element, "deep"))
    return draw(st.sampled_from([text, text.replace("\n", "\r\n"), text.removesuffix("\n")])), lines


@given(documents())
def test_every_key_stands_where_its_writer_put_it(document: tuple[str, dict[Any, int]]) -> None:
    text, lines = document
    tomllib.loads(text)
    found = scan(text)
    assert {path: found[path].line for path in lines} == lines


def paths(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    """All key paths and indices of parsed TOML."""
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    else:
        return set()
    return {(*path, key) for key, _ in children} | {
        below for key, child in children for below in paths(child, (*path, key))
    }


@given(documents())
def test_all_paths_of_tomllib_are_found_and_no_others(document: tuple[str, dict[Any, int]]) -> None:
    text, _ = document
    assert scan(text).keys() == paths(tomllib.loads(text))


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c.d", "c.e", "f"]), one_line), unique_by=lambda pair: pair[0]
    )
)
def test_a_key_stands_on_the_line_that_brings_it(pairs: list[tuple[str, str]]) -> None:
    text = "".join(f"{key} = {value}\n" for key, value in pairs)
    found = scan(text)
    seen: set[tuple[str | int, ...]] = set()
    for number, _ in enumerate(pairs, start=1):
        now = paths(tomllib.loads("".join(text.splitlines(keepends=True)[:number])))
        assert {found[path].line for path in now - seen} == {number}
        seen = now


def test_elements_of_a_long_array_have_their_own_lines() -> None:
    found = scan("k = [ # [ours]\n  1, # [author]\n  { u = 3 },\n  [4,\n  5] # [paper]\n]\n")
    assert found["k",] == Position(1, None)
    assert found["k", 0] == Position(2, "author")
    assert found["k", 1, "u"].line == 3
    assert found["k", 2] == Position(4, "paper")
    assert found["k", 2, 1].line == 5


@pytest.mark.parametrize(
    ("comment", "tag"),
    [
        ("# [paper]", "paper"),
        ("#[author] table 9", "author"),
        ("# [upstream]", "upstream"),
        ("# [ours]", "ours"),
        ("# confirm [paper]", None),
        ("# [Paper]", None),
        ("", None),
    ],
)
def test_a_tag_is_the_first_word_of_the_comment_behind_the_value(comment: str, tag: str | None) -> None:
    found = scan(f"[t]\na = {{ b = 1 }} {comment}\nc = 2\n# [paper]\n")
    assert [found[path].tag for path in (("t", "a"), ("t", "a", "b"), ("t", "c"))] == [tag, tag, None]


def test_a_tag_inside_a_string_is_none() -> None:
    assert scan('a = "# [paper]"\n')["a",].tag is None


def test_a_header_after_its_child_keeps_its_own_line() -> None:
    found = scan("[a.b]\nx = 1\n[a]\ny = 2\n")
    assert (found["a",].line, found["a", "b"].line, found["a", "y"].line) == (3, 1, 4)
