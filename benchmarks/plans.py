"""`python -m benchmarks.plans`: what the paper's recipes take by `vtp plan`, a record for the claims."""

from __future__ import annotations

import datetime
import gc
from pathlib import Path
from typing import Any

import click

from vtp_core.atomic import write_json
from vtp_core.plugins import Plugins, load_plugins
from vtp_core.recipe import load_recipe
from vtp_plugins.plan.plan import Plan, make_plan

RECIPES = (
    "ae_vit_b", "ae_vit_l", "ae_cnn",
    "ae_abl_l", "scale_encoder_ae_b", "scale_encoder_ae_s",
    "vtp_abl_l", "vtp_abl_b", "vtp_abl_s", "scale_decoder_12", "scale_decoder_24",
    "vtp_l", "vtp_b", "vtp_s",
    "lightningdit_b", "lightningdit_xl",
    "dino_tok_ae", "dino_tok_vq", "dino_tok_ae_dit", "dino_tok_vq_ar",
)  # fmt: skip
"""Table 1, the auto-encoders and models of the scaling figures, the final models, generators, DINO-Tok."""


def figures(plan: Plan, steps: int) -> dict[str, Any]:
    """What a record keeps of a plan."""
    tokenizer = [owner for owner in plan.sizes.owners if owner.name in ("encoder", "bottleneck", "decoder")]
    return {
        "steps": steps,
        "rows": dict(plan.view_rows),
        "parameters_of_the_tokenizer": sum(owner.parameters for owner in tokenizer),
        "flops_a_step": plan.flops,
        "flops_forward_training": plan.flops_forward_training,
        "flops_table1": plan.flops_table1,
        "bytes_a_rank": round(plan.memory.total),
    }


def plan_of(name: str, plugins: Plugins) -> dict[str, Any]:
    """The figures of a shipped recipe on 256 ranks."""
    recipe = load_recipe(name, (), plugins, world_size=256)
    return figures(make_plan(recipe, plugins, 256), recipe.run.steps)


@click.command()
@click.option("--reports", type=click.Path(path_type=Path), default=Path(__file__).parent / "reports")
def main(reports: Path) -> None:
    """Writes plans_<date>.json: half a minute of CPU and up to 6 GiB a recipe."""
    plugins, found = load_plugins(), {}
    for name in RECIPES:
        found[name] = plan_of(name, plugins)
        click.echo(f"{name}: {found[name]['flops_forward_training']:.4g} FLOP")
        gc.collect()
    today = datetime.date.today().isoformat()
    write_json(reports / f"plans_{today}.json", {"date": today, "world_size": 256, "recipes": found})


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.plans")
