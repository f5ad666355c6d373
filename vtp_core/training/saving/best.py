"""``checkpoints/best``: the checkpoint that an evaluation found best. Imports no torch.

A text file: the checkpoint's name, then the metric and its value. Rotation spares the checkpoint.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vtp_core.atomic import open_plain, write_text

BEST = "best"
_CONTENT = re.compile(r"(step-(\d{8,}))\n(\S+) (\S+)\n")


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best checkpoint of a run.

    Attributes:
        path: Its folder.
        step: Steps that were made.
        metric: ``EVALUATOR.METRIC``.
        value: Its value there.
    """

    path: Path
    step: int
    metric: str
    value: float


def read_best(folder: Path) -> Best | None:
    """The best checkpoint of a ``checkpoints`` folder; None if none is noted there, or it is gone."""
    try:
        with open_plain(folder / BEST) as file:
            content = _CONTENT.fullmatch(file.read(1000).decode())
        if content is None or not (folder / content[1]).is_dir():
            return None
        return Best(
            path=folder / content[1], step=int(content[2]), metric=content[3], value=float(content[4])
        )
    except (OSError, ValueError):
        return None


def write_best(folder: Path, name: str, metric: str, value: float) -> None:
    """Notes a published checkpoint as the best one.

    Args:
        folder: The ``checkpoints`` folder.
        name: Name of the checkpoint.
        metric: ``EVALUATOR.METRIC``.
        value: Its value there.
    """
    write_text(folder / BEST, f"{name}\n{metric} {value!r}\n")


def improves(folder: Path, step: int, metric: str, value: float, higher_is_better: bool) -> bool:
    """Whether a value is better than that of the checkpoint that is noted as best.

    One of another metric, or of a later step, which the run went back from, does not count.
    """
    best = read_best(folder)
    if best is None or best.metric != metric or best.step >= step:
        return True
    return value > best.value if higher_is_better else value < best.value
