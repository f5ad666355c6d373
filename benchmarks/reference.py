"""`python -m benchmarks.reference RUN...`: writes the reference curves of the recipes of finished runs."""

from __future__ import annotations

import sys
from pathlib import Path

from vtp_core.atomic import write_text
from vtp_core.leaderboard.reference import FOLDER, make_reference
from vtp_core.run.records import RunFolder

RECIPES = Path(__file__).parents[1] / "recipes"


def main(folders: list[str]) -> None:
    """Writes ``recipes/reference/NAME.json`` for each run."""
    for folder in folders:
        run = RunFolder(folder).read()
        path = RECIPES / FOLDER / f"{run.name}.json"
        path.parent.mkdir(exist_ok=True)
        write_text(path, make_reference(run).model_dump_json(indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
