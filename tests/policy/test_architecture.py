"""docs/architecture.md names the rooms that exist, and files that are there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/architecture.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def folders(package: str) -> set[str]:
    found = {path.parent for path in (REPOSITORY / package).rglob("*.py") if "templates" not in path.parts}
    return {f"{path.relative_to(REPOSITORY).as_posix()}/" for path in found}


def test_every_room_of_the_core_has_one_line() -> None:
    listed = re.findall(r"^\| `(vtp_core/[^`]*)` \|", section("Rooms of the core"), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == folders("vtp_core")


def test_every_plugin_is_listed() -> None:
    rows = re.findall(r"^\| [a-z, ]+ \| (.*) \|$", section("Rooms of the plugins"), re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
    there = {path.parent.name for path in (REPOSITORY / "vtp_plugins").glob("*/__init__.py")}
    assert listed == there


def test_the_picture_shows_the_floors_of_the_contract() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    contracts = {contract["id"]: contract for contract in project["tool"]["importlinter"]["contracts"]}
    floors = [re.findall(r"[a-z]\w*", layer) for layer in contracts["floors"]["layers"]]
    picture = section("Floors").split("```")[1].partition("vtp_core")[2]
    names = [re.split(r"\s{3,}", line.strip())[0] for line in picture.strip().splitlines()]
    drawn = [re.findall(r"[a-z]\w*", line) for line in names]
    there = [sorted(layer) for layer in floors if set(layer) & {name for line in drawn for name in line}]
    assert sorted(name for line in there for name in line) == sorted(name for line in drawn for name in line)
    position = {name: row for row, line in enumerate(drawn) for name in line}
    rows = [{position[name] for name in layer} for layer in there]
    assert all(len(row) == 1 for row in rows) and rows == sorted(rows, key=min)


def test_files_that_the_page_names_exist() -> None:
    named = set(re.findall(r"`([a-z_/]+\.py)`", PAGE)) - {"plugin.py", "config.py", "loss.py", "metric.py"}
    roots = (REPOSITORY, REPOSITORY / "vtp_core", REPOSITORY / "vtp_core/training")
    assert not {name for name in named if not any((root / name).is_file() for root in roots)}


def test_the_readme_has_a_line_for_every_room() -> None:
    tree = (REPOSITORY / "README.md").read_text().split("## Where things are")[1].split("```")[1]
    rooms = {path.split("/")[1] for path in folders("vtp_core")} - {""}
    assert not {room for room in rooms if not re.search(rf"^  {room}/ ", tree, re.MULTILINE)}
