"""``vtp data check``: what is in a source and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.core.data.making import DrawnSource, encoded, noise, samples, write_tar
from vtp_core.cli.main import main
from vtp_plugins.data_check.check import check_source, summary


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["data", "check", *arguments])


def test_counts_of_a_source() -> None:
    source = DrawnSource(count=10, bad={4: "truncated image"}, uncaptioned=frozenset({1, 2}))
    report = check_source(source)
    assert (report.samples, report.read, report.usable) == (10, 10, 9)
    assert report.fields == {"image": 9, "text": 7, "label": 9}
    assert report.bad == {"truncated image": 3, "no caption": 2}  # each field is read by itself
    assert report.sizes == ((24, 24), (24, 24))
    assert report.classes == {"even": 4, "odd": 5}
    assert report.captions == (9, 9, 9) and report.equal_captions == 0
    assert any("s4: truncated image" in line for line in report.first_bad)
    assert check_source(source, limit=3).read == 3


def test_duplicates_are_counted(tmp_path: Path) -> None:
    same = encoded(noise())
    write_tar(tmp_path / "a.tar", [("x.png", same), ("x.txt", b"one"), ("y.png", same), ("y.txt", b"one")])
    write_tar(tmp_path / "b.tar", [("x.png", encoded(noise(seed=1)))])
    result = run(str(tmp_path), "--json")
    assert result.exit_code == 0, result.output
    (report,) = json.loads(result.stdout)["sources"].values()
    assert result.exit_code == 0
    assert (report["duplicate_keys"], report["duplicate_images"], report["equal_captions"]) == (1, 1, 1)


def test_lines_of_a_damaged_shard(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", samples(6)).read_bytes()
    (tmp_path / "whole.tar").unlink()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) - 14_000])
    result = run(str(tmp_path / "cut.tar"))
    assert result.exit_code == 3
    assert "truncated or damaged archive: 1, the first: " in result.stdout
    assert "cut.tar" in result.stdout


def test_names_from_data_do_not_steer_the_terminal(tmp_path: Path) -> None:
    name = "\x1b]0;evil\x07 h\xe9"
    done = run(str(write_tar(tmp_path / "a.tar", [(f"{name}.png", b"x"), *samples(1)])))
    assert "\x1b" not in done.stdout and "\\x1b]0;evil\\x07 h\xe9: not an image" in done.stdout
    done = run(str(write_tar(tmp_path / "b.tar", [(f"{name}.png", b"x")])), str(tmp_path / "\x1b[2J"))
    assert done.exit_code == 3 and "\x1b" not in done.output


def test_a_path_that_leads_nowhere_and_an_empty_folder_are_named_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_tar(tmp_path / "a.tar", samples(2))
    result = run(str(tmp_path / "absent"), str(tmp_path / "empty"), str(tmp_path / "a.tar"))
    assert result.exit_code == 3 and "usable   2 of 2" in result.stdout  # the others are read
    assert f"{tmp_path / 'absent'}: no such file or folder" in result.stderr
    assert result.stderr.count(str(tmp_path / "empty")) == 1
    assert f"{tmp_path / 'empty'}: no installed source recognises it; give a table" in result.stderr


def test_image_folder(tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(encoded(noise()))
    (tmp_path / "dog" / "c.jpg").write_bytes(b"<html>")
    result = run(str(tmp_path))
    assert result.exit_code == 0
    assert "usable   2 of 3" in result.stdout and "bad      not an image: 1" in result.stdout
    assert "dog/c.jpg" in result.stdout


@pytest.mark.parametrize("content", [[("a.png", b"broken")], []])
def test_nothing_usable_is_exit_code_3(tmp_path: Path, content: list[tuple[str, bytes]]) -> None:
    result = run(str(write_tar(tmp_path / "a.tar", content)))
    assert result.exit_code == 3
    errors = [line for line in result.stderr.splitlines() if line != "reading: 1 image"]
    assert len(errors) == 1 and errors[0].startswith("error: ")


def test_missing_path_is_exit_code_3_and_others_are_still_checked(tmp_path: Path) -> None:
    good = write_tar(tmp_path / "good.tar", samples(2))
    result = run(str(tmp_path / "none.tar"), str(good))
    assert result.exit_code == 3
    assert "usable   2 of 2" in result.stdout and "none.tar" in result.stderr


def test_a_pipe_is_refused_with_the_reason(tmp_path: Path) -> None:
    result = run(f"pipe:touch {tmp_path / 'ran'}")
    assert result.exit_code == 3 and "webdataset: " in result.stderr and "shell command" in result.stderr
    assert result.stderr.count("\n") == 1 and not (tmp_path / "ran").exists()


def test_a_table_of_a_source(tmp_path: Path) -> None:
    result = run('{ use = "samples", split = "val" }', "--limit", "3")
    assert result.exit_code == 0 and "samples  215 (3 read)" in result.stdout
    wrong = run('{ use = "samples", splt = "val" }')
    assert wrong.exit_code == 2 and 'splt: unknown key; did you mean "split"?' in wrong.stderr
    assert run('{ use = "samples", }}').exit_code == 2


def test_a_folder_of_images_and_shards_is_ambiguous_until_a_table_says_which(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", samples(2))
    (tmp_path / "b.png").write_bytes(encoded(noise()))
    result = run(str(tmp_path))
    assert result.exit_code == 3 and result.stderr.count("\n") == 1
    assert f"{tmp_path}: image_folder and webdataset read it; give the table of one" in result.stderr
    shown = result.stderr.split("such as ")[1].strip().strip("'")
    checked = run(shown)
    assert checked.exit_code == 0 and "usable   1 of 1" in checked.stdout


def test_sources_of_a_recipe(tmp_path: Path) -> None:
    result = run(_recipe(tmp_path), "--limit", "5")
    assert result.exit_code == 0, result.output
    assert "data.source\n  samples  800 (5 read)" in result.stdout


def _recipe(folder: Path) -> str:
    text = """
name = "check"
[run]
steps = 1
[data]
source = { use = "samples" }
[views.image]
rows = 4
size = 64
augment = "center"
[encoder]
use = "vit"
[bottleneck]
use = "linear"
[decoder]
use = "vit"
[objectives.l1]
use = "l1"
view = "image"
[optimizer]
lr = 1e-3
"""
    path = folder / "recipe.toml"
    path.write_text(text)
    return str(path)


def test_summary_is_short_for_a_clean_source() -> None:
    assert len(summary(check_source(DrawnSource(count=4)))) == 8
