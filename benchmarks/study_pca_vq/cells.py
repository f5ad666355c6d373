"""Measures one cell; its features stay in memory until the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import torch
from torch import Tensor

from benchmarks.study.arm import Run
from benchmarks.study.decoding import as_images, psnr, solve
from benchmarks.study.runner import Bench
from benchmarks.study.trained_decoder import TrainedDecoder
from benchmarks.study_pca_vq.config import CellConfig, read_cell
from benchmarks.study_pca_vq.features import Split, read_features
from benchmarks.study_pca_vq.quantise import CHUNK, measure_codebook, train_codebook
from vtp_core.math.row_noise import row_rand, row_seeds
from vtp_plugins.codebook.forecast import forecast
from vtp_plugins.evaluate_linear_probe.metric import probe

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2)
"""Candidate penalties of the linear probe."""
FORECAST_IMAGES = 512
"""Images that `vtp codebook predict` reads by default."""


class Cells:
    """Measures cells of a bench; a `benchmarks.study.cells.Measure`."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._kept: tuple[object, tuple[Split, Split]] | None = None

    def __call__(self, run: Run) -> Mapping[str, Any]:
        """The metrics of a run; the operations are those of the searches in training."""
        config = read_cell(run, self._bench.overrides)
        if self._kept is None or self._kept[0] != config.features:
            found = read_features(config.features, config.folder, self._bench.work)
            self._kept = (config.features, found)
        metrics = measure_cell(config, *self._kept[1], run.seed)
        searched = 2.0 * config.training.batch * config.training.steps * config.codebook.codebook.codes
        return {
            "flops": searched * metrics["axes"]["value"] if "axes" in metrics else 0.0,
            "metrics": metrics,
        }


def measure_cell(config: CellConfig, train: Split, val: Split, seed: int) -> dict[str, dict[str, Any]]:
    """All metrics of a cell, as those of ``eval.json``."""
    chosen = row_rand(row_seeds(seed, torch.arange(len(train.vectors)))).argsort()[: config.features.train]
    train = train.rows(chosen)
    found: dict[str, dict[str, Any]] = {}
    shown = (train.vectors, val.vectors)
    if not config.continuous:
        book = train_codebook(config, train.vectors.flatten(0, 1), seed)
        held_out, measured = measure_codebook(book, val.vectors.flatten(0, 1))
        if config.measures.decoder:
            known = book.quantise(train.vectors.flatten(0, 1))[1].view_as(train.vectors)
            shown = (known, held_out.view_as(val.vectors))
        found = {name: {"value": value} for name, value in measured.items()}
        found["bits"] = {"value": book.quantizer.bits, "unit": "bit a vector"}
    if config.measures.forecast:
        codes = config.codebook.codebook.codes
        sample = train.sample[:FORECAST_IMAGES]
        said = forecast(sample, codes, "plain", bare=True, seed=seed)
        found["forecast_use"] = {"value": said.use}
        found["forecast_perplexity"] = {"value": said.perplexity}
        found["forecast_off"] = {"value": abs(said.use - found["use"]["value"])}
    if config.measures.decoder:
        found |= _decoded(config, train, val, shown)
    if config.measures.trained:
        assert train.grid is not None
        steps = config.measures.trained
        decoder = TrainedDecoder(shown[0], train.pixels, train.grid, steps=steps, seed=seed)
        found["psnr_trained"] = {"value": psnr(decoder.decode(shown[1]), val.pixels), "unit": "dB"}
    return found


def _decoded(
    config: CellConfig, train: Split, val: Split, shown: tuple[Tensor, Tensor]
) -> dict[str, dict[str, Any]]:
    """PSNR by the ridge decoder, and the linear probe of the images' mean vectors."""
    if train.grid is None:
        raise click.ClickException("measures.decoder: vectors drawn from a finer grid can't be decoded")
    count = config.measures.decoder
    ridge = solve(shown[0][:count], train.pixels[:count], train.grid)
    flat = ridge.offset.expand(1, val.vectors.shape[1], -1)
    images = torch.cat([ridge.decode(part, train.grid) for part in shown[1].split(CHUNK // 64)])
    mean_image = as_images(flat, train.grid)
    fitted = probe(shown[0].mean(1), train.label, shown[1].mean(1), STRENGTHS)
    frequent = val.label.bincount().max().item() / len(val.label)
    return {
        "psnr": {
            "value": psnr(images, val.pixels),
            "unit": "dB",
            "baseline": psnr(mean_image.expand_as(val.pixels), val.pixels),
            "baseline_name": "mean patch",
        },
        "penalty": {"value": ridge.penalty},
        "probe": {
            "value": (fitted.predicted == val.label).double().mean().item(),
            "baseline": frequent,
            "baseline_name": "most frequent class",
        },
    }
