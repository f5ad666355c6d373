"""`vtp doctor`: describes this machine and this installation; paste it into a bug report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from vtp_core.installation import examine


def render(facts: Mapping[str, Any]) -> Iterator[str]:
    """The facts as lines of text."""
    vtp, host, torch = facts["vtp"], facts["machine"], facts["torch"]
    yield f"vtp-core   {vtp['version']}{' (editable)' if vtp['editable'] else ''}"
    yield f"python     {vtp['python']}  {vtp['executable']}"
    yield f"system     {host['system']}"
    cores = f"{host['usable_cores']} of {host['cores']} cores"
    yield f"processor  {host['processor']}, {cores}, {host['memory_gib']} GiB"
    yield f"flags      {' '.join(host['flags']) or 'none known'}"
    if torch["error"]:
        yield f"torch      {torch['error']}"
    else:
        yield f"torch      {torch['version']}, CUDA {torch['cuda'] or 'none'}, {torch['threads']} threads"
        yield f"devices    {'; '.join(torch['devices'])} (CPU code path: {torch['cpu_capability']})"
        yield f"backends   {', '.join(torch['distributed']) or 'no torch.distributed'}"
    for title, section in (("packages", "packages"), ("weights", "weights")):
        for row, item in enumerate(facts[section]):
            state = item["version"] or "not installed"
            note = "" if item["ok"] or section == "weights" else f"  needs {item['needs']}"
            yield f"{title if row == 0 else '':<11}{item['name']} {state}{note}"
    for row, item in enumerate(facts["plugins"]["ok"]):
        package = f"{item['distribution']} {item['version']}"
        offers = f"{item['components']} component{'s' if item['components'] > 1 else ''}"
        yield f"{'plugins' if row == 0 else '':<11}{item['plugin']} ({package}): {offers}"
    for item in facts["plugins"]["failed"]:
        yield f"{'':<11}{item['plugin']} FAILED: {item['reason']}"
    for name, item in facts["diagnostics"].items():
        for title, lines in item["facts"].items():
            yield from (f"{title if row == 0 else '':<11}{line}" for row, line in enumerate(lines))
        if item["error"]:
            yield f"{name:<10} FAILED: {item['error']}"
    yield ""
    yield from (f"problem: {problem}" for problem in facts["problems"])
    if not facts["problems"]:
        yield "No problems found."


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check the installation: Python, torch, devices, packages, plugins.

    Exits with 2 if something is missing that the framework or a plugin needs.
    """
    facts = examine()
    click.echo(json.dumps(facts, indent=2) if as_json else "\n".join(render(facts)))
    context.exit(2 if facts["problems"] else 0)
