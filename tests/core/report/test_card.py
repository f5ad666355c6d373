"""The model card of a run: numbers of the same weights, data, licenses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.core.leaderboard.test_board import entry
from tests.core.run.tiny_run import vtp
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.artefact.card import Number, Training, model_card
from vtp_core.cli.main import main
from vtp_core.report.card import training_of
from vtp_core.report.page import render
from vtp_core.report.run_data import RunData

MEASURED = (
    'evaluate.source={ use = "samples", split = "val" }',
    'evaluators.reconstruction={ use = "reconstruction" }',
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with checkpoints of steps 4 and 6, of which step 6 was measured."""
    folder = tmp_path_factory.mktemp("card")
    result = vtp(folder, *MEASURED, "run.checkpoint_every=4", "run.keep_checkpoints=2")
    assert result.exit_code == 0, result.output
    return folder / "run"


def table(card: str, section: str) -> list[list[str]]:
    """The rows of a table under a heading."""
    text = card.partition(f"## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_card_has_the_numbers_of_the_run(run: Path) -> None:
    card = (run / "tokenizer/README.md").read_text()
    entry = json.loads((run / "eval.json").read_text())["psnr"]
    (row,) = [row for row in table(card, "Measured") if row[0] == "PSNR"]
    low, high = entry["interval"]
    assert row[1:3] == [f"{entry['value']:.2f} dB", f"{low:.2f} to {high:.2f}"]
    assert entry["protocol"] in card and "samples" in dict(table(card, "Training data"))["training data"]
    assert "State the licenses of the data and the intended use." in card


def test_an_export_has_the_numbers_of_its_own_step_alone(run: Path, tmp_path: Path) -> None:
    for name, measured in (("step-00000006", True), ("step-00000004", False)):
        exported = tmp_path / name
        command = ["export", str(run / "checkpoints" / name), str(exported), "--no-statistics"]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
        card = (exported / "README.md").read_text()
        assert ("## Measured" in card) == measured and "## Training data" in card
        assert ("and the measured quality" in card) != measured


def test_an_edited_evaluation_gives_a_card_without_numbers(run: Path, tmp_path: Path) -> None:
    kept = (run / "eval.json").read_text()
    (run / "eval.json").write_text('{"psnr": {"value": "high"}}')
    try:
        result = CliRunner().invoke(main, ["export", str(run), str(tmp_path / "out"), "--no-statistics"])
    finally:
        (run / "eval.json").write_text(kept)
    assert result.exit_code == 0, result.output
    assert "## Measured" not in (tmp_path / "out" / "README.md").read_text()


def test_what_a_number_can_not_be_read_without_is_beside_it_in_card_and_report(tmp_path: Path) -> None:
    config = toy_tokenizer().config
    assert config is not None
    measured = {"m": entry(3.0, neighbours=12.345)}
    rows = [{"step": 7, "eval/m": 3.0}]
    data = RunData(name="a", metrics=rows, evaluation=measured, images=tmp_path)
    (number,) = training_of(data, config.model_copy(update={"step": 7})).numbers
    assert number.value == "3.0 dB (neighbours 12.35)"
    assert "<span>neighbours 12.35</span>" in render(data)
    for damaged in (None, "neighbours", [["neighbours"], None, "others"]):
        text = render(replace(data, evaluation={"m": {**measured["m"], "beside": damaged}}))
        assert "3.0 dB" in text and "<span>neighbours" not in text


def test_texts_of_a_run_are_no_markup() -> None:
    model = toy_tokenizer()
    assert model.config is not None
    number = Number(title="<b>|x", value="1", interval="", trivial="", protocol="`a`\n# b")
    card = model_card(model, model.config, Training(numbers=(number,), facts=(("data", "<img src=x>|"),)))
    assert "<b>" not in card and "<img" not in card and "\n# b" not in card and "&#124;x" in card
