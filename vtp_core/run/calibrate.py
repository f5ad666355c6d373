"""Calibrates a bottleneck (a global PCA, a first codebook) on data before step 0 and before sharding."""

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
    """Shows the bottleneck features of training rows and lets it set its state; the same on all ranks.

    Args:
        networks: Not sharded yet.
        world: This rank.
        options: Precision of the encoder's forward.
        steps: (step, batches) of the training loader.
        view: The view to look at.
        rows: Global rows to look at, at least.

    Returns:
        Global rows that were seen; 0 if the bottleneck needs no calibration.
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
