"""The README's commands work in the order in which they stand, right after the quickstart."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.policy.test_documents import shell_lines
from vtp_core.cli.main import main
from vtp_core.run.records import RunFolder

REPOSITORY = Path(__file__).parents[2]
SMALL = (
    "data.workers=0", "evaluate.limit=32", "run.log_every=1", "encoder.depth=1", "decoder.depth=1",
    "views.image.rows=8", "views.ssl.rows=4", "objectives.l1.rows=4", "objectives.perceptual.rows=4",
)  # fmt: skip
"""What makes the quickstart quick: fewer blocks and rows, and less data in the evaluation."""


def everyday() -> list[list[str]]:
    """The README's command lines under "Everyday commands", without ``vtp``."""
    text = (REPOSITORY / "README.md").read_text()
    section = text.partition("## Everyday commands")[2].partition("\n## ")[0]
    lines = [shlex.split(line) for line in shell_lines(section) if line]
    assert all(words[0] == "vtp" for words in lines) and len(lines) > 12
    return [words[1:] for words in lines]


def shortened(words: list[str]) -> list[str]:
    """A command line with a fiftieth of the steps; copies of the quickstart get `SMALL`."""
    few = []
    for word in words:
        key, _, value = word.partition("=")
        few.append(f"{key}={int(value) // 50}" if key == "run.steps" else word)
    if words[0] == "run" and "--resume" not in words:
        few += [part for value in SMALL for part in ("-s", value)]
    return few


def vtp(words: list[str]) -> Result:
    return CliRunner().invoke(main, words)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_work_right_after_the_quickstart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quickstart = ["run", "quickstart", "--resume", "-s", "run.steps=2"]  # as `make quickstart` does
    assert vtp([*quickstart, *(part for value in SMALL for part in ("-s", value))]).exit_code == 0
    made = RunFolder("runs/quickstart").report.read_bytes()
    for words in everyday():
        if words[0] in ("plan", "bench", "doctor"):  # they have tests of their own, and take a minute
            continue
        done = vtp(shortened(words))
        assert done.exit_code == 0, f"vtp {shlex.join(words)}: {done.output}"
    assert RunFolder("runs/quickstart").report.read_bytes() == made
    assert [row["step"] for row in RunFolder("runs/mine").read_steps()] == [1, 2, 3, 4]
    assert len(list(Path("decoded").iterdir())) == len(list(Path("runs/mine/samples").glob("*.png")))
    assert (tmp_path / "exported" / "config.json").is_file()


def test_a_run_of_the_readme_has_a_folder_of_its_own_and_is_resumed_there() -> None:
    runs = [words for words in everyday() if words[0] == "run"]
    first, again = runs
    assert first[first.index("--out") + 1] == again[1] and "--resume" in again
    assert not any("runs/quickstart" in words for words in everyday())
