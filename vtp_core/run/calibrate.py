"""Calibrates a bottleneck (global PCA, initial codebook) on training data before step 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from vtp_core.batch import Batch
from vtp_core.features import Features, Tally
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.networks import Networks
from vtp_core.training.ranks.tallies import reduce_tally
from vtp_core.training.ranks.world import World


@torch.no_grad()
def calibrate(
    networks: Networks,
    world: World,
    options: ForwardOptions,
    steps: Iterable[tuple[int, Mapping[str, Batch]]],
    view: str,
    rows: int,
) -> int:
    """Passes features of training rows to the bottleneck, which sets its state from them; equal on all ranks.

    Args:
        networks: Not sharded yet.
        world: This rank.
        options: Precision of the encoder's forward.
        steps: (step, batches) of the training loader.
        view: The view whose rows are used.
        rows: Minimum number of global rows.

    Returns:
        Global rows that were used; 0 if the bottleneck needs no calibration.
    """
    tallies: list[Tally] = []
    seen = 0
    encoder = networks.encoder
    training = encoder.training
    encoder.eval()
    for _, batches in steps:
        batch = batches[view].to(world.device)
        with options.precision(world.device):
            tokens = encoder([batch.crops["global"]], [None], layers=networks.bottleneck.layers)
            tally = networks.bottleneck.observe(Features(crops={"global": tokens[0]}))
        if tally is None:
            break
        tallies.append(tally)
        seen += batch.rows
        if seen >= rows:
            break
    encoder.train(training)
    if tallies:
        networks.bottleneck.calibrate(reduce_tally(tallies, world))
    return seen if tallies else 0
