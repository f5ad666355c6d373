"""The table of tokenizers: columns, marks of other protocols, and the page."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import re
from dataclasses import replace
from typing import Any

import pytest

from vtp_core.cli.leaderboard import board_text
from vtp_core.evaluation.protocol import Baseline, EvaluationProtocol, Metric, Score, SetFacts
from vtp_core.leaderboard.board import Board, Cell, Column
from vtp_core.leaderboard.cost import Cost
from vtp_core.leaderboard.page import render
from vtp_core.leaderboard.row import Row

COST = Cost(
    image_size=32, latent=(4, 8, 8), codebooks=(), tokens=64, bits=4096, encoder_parameters=1_234_567,
    decoder_parameters=900, encode_flops=2_000_000_000, decode_flops=None, encode_rate=12.345,
    decode_rate=None, measured="8 images at a time on cpu, 1 threads, float32",
)  # fmt: skip


def entry(
    value: float, size: int = 32, aspect: str = "fidelity", *, higher: bool = True, **also: float
) -> dict[str, Any]:
    """What an evaluation writes of a number, which can't be read without those of `also`."""
    metric = Metric(
        title="Likeness", unit="dB", higher_is_better=higher, digits=1, baseline_name="grey", beside=[*also]
    )
    held_out = SetFacts(name="photos", samples=5, total=5)
    protocol = EvaluationProtocol(name="likeness-v1 (mean)", image_size=size, held_out=held_out)
    score = Score(value=value, error=0.5, baselines={"grey": Baseline(value=1.0, error=0.5)}, also=also)
    return {**score.entry(metric, protocol), "evaluator": "likeness", "aspect": aspect}


def row(name: str, cost: Cost = COST, **results: dict[str, Any]) -> Row:
    return Row(name=name, license="", cost=cost, results=results)


def column(board: Board, title: str) -> Column:
    (found,) = (one for one in board.columns if one.title == title)
    return found


def test_the_best_number_of_a_column_is_the_highest_or_the_lowest() -> None:
    up = Board([row("a", m=entry(3.0)), row("b", m=entry(4.0)), row("c")])
    assert [cell.best for cell in column(up, "Likeness").cells] == [False, True, False]
    down = Board([row("a", m=entry(3.0, higher=False)), row("b", m=entry(4.0, higher=False))])
    assert [cell.best for cell in column(down, "Likeness").cells] == [True, False]
    assert column(up, "Likeness").cells[0] == Cell(
        text="3.0", value=3.0, interval="2.0 to 4.0", verdict="better"
    )
    assert column(up, "Likeness").cells[2] == Cell(text="-")


def test_a_single_tokenizer_is_not_called_the_best() -> None:
    assert not column(Board([row("a", m=entry(3.0))]), "Likeness").cells[0].best


def test_numbers_of_another_protocol_are_marked_and_never_the_best() -> None:
    board = Board([row("a", m=entry(3.0)), row("b", m=entry(2.0)), row("c", m=entry(9.0, size=64))])
    cells = column(board, "Likeness").cells
    assert [cell.mark for cell in cells] == [0, 0, 1] and [cell.best for cell in cells] == [
        True,
        False,
        False,
    ]
    assert board.notes == ["centre-crop-v1 64 px, where the column has centre-crop-v1 32 px"]
    assert "9.0 [1]" in board_text(board) and "[1] not comparable: centre-crop-v1 64 px" in board_text(board)


def test_one_difference_is_one_note() -> None:
    others = {"m": entry(1.0, 64), "n": entry(2.0, 64)}
    board = Board(
        [row("a", m=entry(3.0), n=entry(3.0)), row("b", m=entry(3.0), n=entry(3.0)), row("c", **others)]
    )
    assert len(board.notes) == 1


def test_columns_are_grouped_by_what_they_are_about() -> None:
    board = Board(
        [
            row("a", g=entry(1.0, aspect="generation"), m=entry(1.0)),
            row("b", k=entry(1.0, aspect="understanding")),
        ]
    )
    groups = [one.group for one in board.columns]
    assert groups[:3] == ["fidelity", "understanding", "generation"] and set(groups[3:]) == {"cost"}


@pytest.mark.parametrize(
    ("codebooks", "shown"),
    [((), "4 x 8 x 8"), ((1024,), "4 x 8 x 8, codes of 1,024"), ((256, 256), "4 x 8 x 8, 2 codebooks of 256"),
     ((16, 8), "4 x 8 x 8, codes of 16, 8")],
)  # fmt: skip
def test_sizes_and_speeds_are_written_briefly(codebooks: tuple[int, ...], shown: str) -> None:
    board = Board([row("a", replace(COST, codebooks=codebooks))])
    assert column(board, "latent").cells[0].text == shown
    texts = {one.title: one.cells[0].text for one in board.columns}
    assert texts["parameters, encoder"] == "1.23M" and texts["parameters, decoder"] == "900"
    assert texts["FLOPs, encode"] == "2G" and texts["FLOPs, decode"] == "-"
    assert texts["images a second, encode"] == "12.3" and texts["license of the weights"] == "not stated"


class Page(html.parser.HTMLParser):
    """Cells, scripts and what a page loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.scripts: list[str] = []
        self.loads: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.loads += [value or "" for key, value in attributes if key in ("src", "href")]
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside in ("td", "small", "a") and self.cells:
            self.cells[-1] += data


def test_the_page_is_offline_and_runs_only_its_own_script() -> None:
    text = render(Board([row("a", m=entry(3.0)), row("b", m=entry(2.0, 64))]))
    page = Page(text)
    assert all(address.startswith("#note") for address in page.loads) and page.loads
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
    assert any(cell.startswith("3.0") and "better" in cell for cell in page.cells)


def test_what_a_number_can_not_be_read_without_is_beside_it() -> None:
    board = Board([row("a", m=entry(3.0, neighbours=12.345)), row("b", m=entry(4.0, neighbours=2.0))])
    assert [cell.beside for cell in column(board, "Likeness").cells] == ["neighbours 12.35", "neighbours 2"]
    assert "3.0 (neighbours 12.35)" in board_text(board) and "4.0 (neighbours 2) *" in board_text(board)
    assert any(cell.startswith("3.02.0 to 4.0neighbours 12.35") for cell in Page(render(board)).cells)
    written = board.written()["tokenizers"][0]["results"]["m"]
    assert (written["beside"], written["also"]) == (["neighbours"], {"neighbours": 12.345})
    older = entry(3.0)
    del older["beside"]
    assert column(Board([row("a", m=older)]), "Likeness").cells[0].beside == ""


def test_names_are_text_on_the_page_and_in_the_terminal() -> None:
    board = Board([row("<script>alert(1)</script>\x1b[2J", m=entry(3.0))])
    text = render(board)
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert "\x1b" not in board_text(board)
