"""Measures one cell; layers of an encoder and a set of images stay in memory until the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.study.arm import Run
from benchmarks.study.runner import Bench
from benchmarks.study_branches.config import CellConfig, read_cell
from benchmarks.study_branches.features import Layers, read_layers
from benchmarks.study_branches.latents import make_latents
from benchmarks.study_branches.measures import measure
from vtp_core.math.row_noise import row_rand, row_seeds


class Cells:
    """Measures cells of a bench; a `benchmarks.study.cells.Measure`."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._kept: tuple[object, Layers] | None = None

    def __call__(self, run: Run) -> Mapping[str, Any]:
        """The metrics of a run, and its draws; the operations are those of searches in training."""
        config = read_cell(run, self._bench.overrides)
        layers = self._layers(config)
        chosen = row_rand(row_seeds(run.seed, torch.arange(len(layers.train.label)))).argsort()
        some = Layers(
            train=layers.train.rows(chosen[: config.features.train]), val=layers.val, dims=layers.dims
        )
        latents = make_latents(config, some, run.seed)
        found = measure(latents, some, config.measures.decoder)
        said = latents.report
        width = said["channels"] / said.get("books", 1) * said.get("codes", 0)
        searched = 2.0 * config.training.steps * config.training.batch * width
        return {"flops": searched, **found}

    def _layers(self, config: CellConfig) -> Layers:
        asked = (config.features, config.layers)
        if self._kept is None or self._kept[0] != asked:
            self._kept = (asked, read_layers(config, self._bench.work))
        return self._kept[1]
