"""`python -m benchmarks.joint_step`: times the rungs in turns, counts their memory, writes the report."""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

from benchmarks.joint_step.ladder import RUNGS, build_rung
from benchmarks.joint_step.measurement import count_memory, run_ladder
from benchmarks.joint_step.report import markdown
from benchmarks.joint_step.setting import TINY, Sizes
from vtp_plugins.bench.case import CaseError
from vtp_plugins.bench.memory import peak_of


@click.command()
@click.option("--rows", default=32, show_default=True, help="Rows of the contrastive view.")
@click.option("--rounds", default=5, show_default=True, help="Timed steps of each rung, at least 2.")
@click.option("--rungs", help="Names, separated by semicolons; by default all but the compiled one.")
@click.option("--tiny", is_flag=True, help="Tiny networks: whether it works, not how fast.")
@click.option("--device", default="cpu", show_default=True, help='"cpu" or "cuda".')
@click.option("--memory/--no-memory", default=True, help="Count gradients and activations.")
@click.option("--reports", type=click.Path(path_type=Path), help="Write report and JSON here.")
@click.option("--count", nargs=2, hidden=True, help="Child: rung and precision whose memory is counted.")
def main(
    rows: int,
    rounds: int,
    rungs: str | None,
    tiny: bool,
    device: str,
    memory: bool,
    reports: Path | None,
    count: tuple[str, str] | None,
) -> None:
    """Time a joint step, rung by rung, against three plain training steps."""
    torch.set_num_threads(1)
    sizes = TINY if tiny else Sizes(rows=rows)
    if count is not None:
        name, precision = count
        rung = build_rung(name, "bfloat16" if precision == "bfloat16" else "float32", sizes)
        click.echo(peak_of(rung.step))
        return
    asked = [name.strip() for name in rungs.split(";")] if rungs else None
    if unknown := set(asked or ()) - RUNGS.keys():
        raise click.ClickException(f"no rung {min(unknown)!r}; there are: {'; '.join(RUNGS)}")
    names = [name for name in RUNGS if _wanted(name, asked)]
    try:
        found = run_ladder(names, sizes, rounds, device)
        if memory and device == "cpu":
            count_memory(found, sizes, tiny=tiny)
    except CaseError as error:
        raise click.ClickException(str(error)) from error
    click.echo(markdown(found))
    if reports is not None:
        reports.mkdir(parents=True, exist_ok=True)
        where = "" if device == "cpu" else f"{device.replace(':', '_')}_"
        stem = f"joint_step_{where}{found['date']}"
        (reports / f"{stem}.md").write_text(markdown(found))
        (reports / f"{stem}.json").write_text(json.dumps(found, indent=2) + "\n")


def _wanted(name: str, asked: list[str] | None) -> bool:
    if RUNGS[name] is None:
        return True
    if asked is None:
        return "compiled" not in name
    return name in asked


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.joint_step")
