"""The ledger of the papers' claims: what it names exists, and a verdict rests on a committed record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.claims import (
    LEDGER,
    PAGE,
    ROOT,
    Claim,
    Ledger,
    Paper,
    SaidFinding,
    problems,
    read_ledger,
    render,
)


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return read_ledger()


def test_every_row_holds(ledger: Ledger) -> None:
    assert list(problems(ledger)) == []


def test_the_page_is_that_of_the_ledger(ledger: Ledger) -> None:
    assert (ROOT / PAGE).read_text("utf-8") == render(ledger), "run python -m benchmarks.claims"


def test_both_papers_have_their_rows(ledger: Ledger) -> None:
    rows = {paper.arxiv: len(paper.claims) for paper in ledger.papers}
    assert rows.keys() == {"2512.13687", "2511.20565"}
    assert all(count >= 10 for count in rows.values())


def of(**changes: Any) -> Ledger:
    """A ledger of one row that holds, but for the changes."""
    row: dict[str, Any] = {
        "id": "a-claim",
        "section": "1",
        "claim": "Contrast helps.",
        "published": "no number",
        "recipes": ("clip_ae",),
        "studies": ("study_objectives",),
        "tests": ("tests/policy/test_claims.py::test_every_row_holds",),
        "evaluators": ("knn",),
        "records": ("benchmarks/study_objectives/results/clip_ae_d4_*.json",),
        "findings": (finding(),),
        "verdict": "in part",
    }
    return Ledger(papers=(Paper(title="T", arxiv="1", claims=(Claim(**row | changes),)),))


def finding(**changes: str) -> dict[str, str]:
    return {
        "study": "study_objectives",
        "above": "clip_ae_d4",
        "below": "ae_d4",
        "metric": "linear_probe",
        "finding": "appeared",
    } | changes


def test_the_row_of_the_next_test_holds() -> None:
    assert list(problems(of())) == []
    assert list(problems(of(verdict="open", findings=()))) == []


SAID = {"study": "study_understanding", "says": "probe against distance"}


def another_finding() -> str:
    """One that the study's records, whatever they show, do not bear out, as the ledger does."""
    rows = [row for paper in read_ledger().papers for claim in paper.claims for row in claim.findings]
    (row,) = (row for row in rows if isinstance(row, SaidFinding) and row.says == SAID["says"])
    return "open" if row.finding == "reversed" else "reversed"


NOTHING = {"recipes": (), "studies": (), "tests": (), "evaluators": (), "findings": ()}
WRONG = {
    "a recipe": ({"recipes": ("clip_ea",)}, "no recipe clip_ea"),
    "a study": ({"studies": ("study_nothing",)}, "no study study_nothing"),
    "a file of tests": ({"tests": ("tests/nowhere.py::test_it",)}, "no test tests/nowhere.py::test_it"),
    "a test": ({"tests": ("tests/policy/test_claims.py::test_it",)}, "no test tests/policy/test_claims.py::"),
    "an evaluator": ({"evaluators": ("k_nn",)}, "no evaluator k_nn"),
    "a record": (
        {"records": ("benchmarks/reports/none_*.json",)},
        "no committed record benchmarks/reports/none",
    ),
    "a verdict of nothing": (NOTHING, "it names no evidence, so its verdict is open, not in part"),
    "a verdict without record": ({"records": ()}, "no record backs the verdict in part"),
    "an arm": ({"findings": (finding(above="clip_d4"),)}, "study_objectives has no arm clip_d4"),
    "a finding": (
        {"findings": (finding(), finding(above="ae_d4", below="clip_ae_d4"))},
        "study_objectives says of ae_d4 > clip_ae_d4 in linear_probe reversed, the ledger appeared",
    ),
    "what a study says": (
        {"findings": ({"study": "study_understanding", "says": "nothing", "finding": "open"},)},
        "study_understanding says nothing of 'nothing'",
    ),
    "what a study says otherwise": (
        {"findings": ({**SAID, "finding": another_finding()},)},
        "study_understanding says of probe against distance",
    ),
    "too good a verdict": (
        {"verdict": "shown", "findings": (finding(above="ssl_ae_d4", finding="leaning"),)},
        "shown, but a finding is not that it appeared",
    ),
    "too bad a verdict": ({"verdict": "not shown"}, "not shown needs findings, of which none appeared"),
    "part of nothing": (
        {"findings": (finding(above="ae_d4", below="clip_ae_d4", finding="reversed"),)},
        "in part, but no finding appeared",
    ),
    "scale for what": ({"verdict": "needs scale", "recipes": ()}, "no recipe would show it"),
    "a verdict that is missing": (
        {"verdict": "open"},
        "its verdict is open, but studies have findings on it",
    ),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_named(changes: dict[str, Any], message: str) -> None:
    assert any(line.startswith("a-claim: ") and message in line for line in problems(of(**changes)))


def test_two_rows_of_one_id() -> None:
    (paper,) = of().papers
    twice = Ledger(papers=(paper, paper))
    assert "a-claim: two rows have this id" in list(problems(twice))


def test_a_record_that_git_does_not_keep_backs_nothing() -> None:
    stray = ROOT / "benchmarks/study_objectives/results/stray_of_a_test.json"
    if not (ROOT / ".git").exists():
        pytest.skip("no git here")
    stray.write_text("{}")
    try:
        found = list(problems(of(records=(stray.relative_to(ROOT).as_posix(),))))
    finally:
        stray.unlink()
    assert any("no committed record" in line for line in found)


def test_an_unknown_key_of_the_ledger_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / LEDGER).write_text('[[papers]]\ntitle = "T"\narxiv = "1"\nclaim = []\n')
    with pytest.raises(Exception, match="claims"):
        read_ledger(tmp_path)
