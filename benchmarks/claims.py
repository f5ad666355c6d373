"""`python -m benchmarks.claims`: checks ``docs/claims.toml`` and writes ``docs/claims.md`` from it.

One row a claim of the papers. What a row names must exist; a verdict rests on committed records, and what it
says of a study is judged again from these.
"""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import click
from pydantic import Field, ValidationError

from benchmarks.study.claim import Finding, judge
from benchmarks.study.command import Study
from benchmarks.study.results import Results, read_results
from vtp_core.config import Table
from vtp_core.plugins import load_plugins
from vtp_core.recipe.shipped import shipped_recipes

ROOT = Path(__file__).parents[1]
LEDGER, PAGE = "docs/claims.toml", "docs/claims.md"
Verdict = Literal["open", "shown", "in part", "not shown", "needs scale"]
MEANING: Mapping[Verdict, str] = {
    "shown": "committed records show all of it, at the size that the claim is about",
    "in part": "records show a part of it, or all of it at a smaller size",
    "not shown": "records address it, and none of them supports it",
    "needs scale": "the recipes are here; the records say what a run of them takes",
    "open": "no record, or too few seeds, to judge it",
}


class FindingOf(Table):
    """A comparison of two arms of a study, and how it comes out."""

    study: str
    above: str
    below: str
    metric: str
    finding: Finding


class SaidFinding(Table):
    """What a study's `findings` say under a name, such as of a correlation over its arms."""

    study: str
    says: str
    finding: Finding


class Claim(Table):
    """One row."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    section: str
    claim: str
    published: str
    recipes: tuple[str, ...] = ()
    studies: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    evaluators: tuple[str, ...] = ()
    verdict: Verdict
    records: tuple[str, ...] = ()
    findings: tuple[FindingOf | SaidFinding, ...] = ()
    note: str = ""

    @property
    def named(self) -> tuple[str, ...]:
        """Everything that is evidence for or against it."""
        return (*self.recipes, *self.studies, *self.tests, *self.evaluators)


class Paper(Table):
    """A paper and its claims."""

    title: str
    arxiv: str
    claims: tuple[Claim, ...]


class Ledger(Table):
    """All of them."""

    papers: tuple[Paper, ...]


def read_ledger(root: Path = ROOT) -> Ledger:
    """The ledger of a checkout.

    Raises:
        click.ClickException: A row lacks a key, has an unknown one or a wrong value.
    """
    try:
        return Ledger.model_validate(tomllib.loads((root / LEDGER).read_text("utf-8")))
    except (ValidationError, tomllib.TOMLDecodeError) as error:
        raise click.ClickException(f"{LEDGER}: {error}") from error


def problems(ledger: Ledger, root: Path = ROOT) -> Iterator[str]:
    """What is wrong with the ledger, one line each."""
    claims = [claim for paper in ledger.papers for claim in paper.claims]
    recipes = set(shipped_recipes())
    evaluators = {component.name for component in load_plugins().components("evaluator")}
    committed = _committed(root)
    for claim in claims:
        if sum(other.id == claim.id for other in claims) > 1:
            yield f"{claim.id}: two rows have this id"
        yield from (f"{claim.id}: no recipe {name}" for name in claim.recipes if name not in recipes)
        yield from (f"{claim.id}: no evaluator {name}" for name in claim.evaluators if name not in evaluators)
        for name in (*claim.studies, *(finding.study for finding in claim.findings)):
            if not (root / "benchmarks" / name / "__main__.py").is_file():
                yield f"{claim.id}: no study {name}"
        yield from (f"{claim.id}: no test {name}" for name in claim.tests if not _has_test(root, name))
        for pattern in claim.records:
            if not any(path.relative_to(root).as_posix() in committed for path in root.glob(pattern)):
                yield f"{claim.id}: no committed record {pattern}"
        yield from (f"{claim.id}: {line}" for line in _verdict(claim))
    yield from _judged(claims, root)


def _verdict(claim: Claim) -> Iterator[str]:
    """Whether its verdict follows from what the row names."""
    found = {finding.finding for finding in claim.findings}
    if claim.verdict == "open":
        if claim.findings and found != {"open"}:
            yield "its verdict is open, but studies have findings on it"
        return
    if not claim.named:
        yield f"it names no evidence, so its verdict is open, not {claim.verdict}"
    if not claim.records:
        yield f"no record backs the verdict {claim.verdict}"
    if claim.verdict == "shown" and not found <= {"appeared"}:
        yield "shown, but a finding is not that it appeared"
    if claim.verdict == "not shown" and (not found or "appeared" in found):
        yield "not shown needs findings, of which none appeared"
    if claim.verdict == "in part" and found and "appeared" not in found:
        yield "in part, but no finding appeared"
    if claim.verdict == "needs scale" and not claim.recipes:
        yield "needs scale, but no recipe would show it"


def _judged(claims: Sequence[Claim], root: Path) -> Iterator[str]:
    """Findings that the records do not bear out."""
    results: dict[str, Results] = {}
    for claim in claims:
        for named in claim.findings:
            study: Study = import_module(f"benchmarks.{named.study}.__main__").STUDY
            if named.study not in results:
                folder = root / f"benchmarks/{named.study}/results"
                results[named.study] = read_results(study.arms(False), folder)
            found = results[named.study]
            if isinstance(named, SaidFinding):
                said = study.findings(found).get(named.says)
                if said is None:
                    yield f"{claim.id}: {named.study} says nothing of {named.says!r}"
                elif said != named.finding:
                    yield f"{claim.id}: {named.study} says of {named.says} {said}, the ledger {named.finding}"
                continue
            if lacking := {named.above, named.below} - found.records.keys():
                yield f"{claim.id}: {named.study} has no arm {lacking.pop()}"
                continue
            values = [found.values(arm, named.metric) for arm in (named.above, named.below)]
            if (judged := judge(*values)) != named.finding:
                pair = f"{named.above} > {named.below} in {named.metric}"
                yield f"{claim.id}: {named.study} says of {pair} {judged}, the ledger {named.finding}"


def _has_test(root: Path, name: str) -> bool:
    file, _, function = name.partition("::")
    path = root / file
    return path.is_file() and f"def {function}(" in path.read_text("utf-8")


def _committed(root: Path) -> set[str]:
    """Files that git keeps; those that are there, where there is no git."""
    if (root / ".git").exists() and (git := shutil.which("git")):
        listed = subprocess.run([git, "-C", str(root), "ls-files", "-z"], capture_output=True, check=True)
        return set(listed.stdout.decode().split("\0"))
    return {path.relative_to(root).as_posix() for path in (root / "benchmarks").rglob("*") if path.is_file()}


def render(ledger: Ledger) -> str:
    """The page."""
    claims = [claim for paper in ledger.papers for claim in paper.claims]
    counts = [(verdict, sum(claim.verdict == verdict for claim in claims)) for verdict in MEANING]
    lines = [
        "# What the papers claim, and what was shown here",
        "",
        f"<!-- Written by `python -m benchmarks.claims` from {Path(LEDGER).name}; change that. -->",
        "",
        "| verdict | rows | meaning |",
        "| --- | --- | --- |",
        *(f"| {verdict} | {count} | {MEANING[verdict]} |" for verdict, count in counts),
        "",
        "A test judges every finding again from the records, and refuses a verdict that no committed",
        "record backs.",
    ]
    for paper in ledger.papers:
        lines += ["", f"## {paper.title} ([{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv}))"]
        for claim in paper.claims:
            lines += ["", f"### {claim.id}: {claim.verdict}", "", f"{claim.claim} ({claim.section})", ""]
            lines += [f"- Published: {claim.published}"]
            lines += _sources(claim)
            lines += [f"- {claim.note}"] if claim.note else []
    return "\n".join(lines) + "\n"


def _sources(claim: Claim) -> Iterator[str]:
    kinds = (
        ("Recipes", claim.recipes),
        ("Evaluators", claim.evaluators),
        ("Tests", claim.tests),
        ("Records", claim.records),
    )
    if claim.studies:
        links = (f"[{name}](../benchmarks/{name}/README.md)" for name in claim.studies)
        yield f"- Studies: {', '.join(links)}"
    for title, names in kinds:
        if names:
            yield f"- {title}: {', '.join(f'`{name}`' for name in names)}"
    for found in claim.findings:
        if isinstance(found, SaidFinding):
            what = found.says
        else:
            what = f"{found.above} > {found.below} in {found.metric}"
        yield f"- {found.study}: {what}: **{found.finding}**"


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail if the page is not that of the ledger.")
def main(check: bool) -> None:
    """Checks docs/claims.toml and writes docs/claims.md."""
    ledger = read_ledger()
    found = list(problems(ledger))
    page = render(ledger)
    if check and (ROOT / PAGE).read_text("utf-8") != page:
        found.append(f"{PAGE} is not that of {LEDGER}; run python -m benchmarks.claims")
    if found:
        raise click.ClickException("\n".join(found))
    if not check:
        (ROOT / PAGE).write_text(page, "utf-8")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.claims")
