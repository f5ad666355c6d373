"""Calibrates a bottleneck (global PCA, initial codebook) on training data before step 0."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import torch

from vtp_core.batch import Batch
from vtp_core.errors import DataError
from vtp_core.features import Features, Tally
from vtp_core.training.forward.options import ForwardOptions
from vtp_core.training.networks import Networks
from vtp_core.training.ranks.tallies import join_tallies, reduce_tally
from vtp_core.training.ranks.world import World

_log = logging.getLogger(__name__)


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

    Tallies are joined batch by batch, so memory does not grow with the rows.

    Args:
        networks: Not sharded yet.
        world: This rank.
        options: Precision of the encoder's forward.
        steps: (step, batches) of a training loader that is long enough.
        view: The view whose rows are used; it needs pixels.
        rows: Minimum number of global rows.

    Returns:
        Global rows that were used; 0 if the bottleneck needs no calibration.

    Raises:
        DataError: The view holds cached latents, or the batches end early.
    """
    encoder, bottleneck = networks.encoder, networks.bottleneck
    tally: Tally | None = None
    seen, training = 0, encoder.training
    encoder.eval()
    for _, batches in steps:
        batch = batches[view].to(world.device)
        if "global" not in batch.crops:
            raise DataError(
                f"views.{view}: holds cached latents, and the bottleneck must see images to calibrate; start "
                "from a calibrated one with init_from"
            )
        with options.precision(world.device):
            tokens = encoder([batch.crops["global"]], [None], layers=bottleneck.layers)
            part = bottleneck.observe(Features(crops={"global": tokens[0]}))
        if part is None:
            encoder.train(training)
            return 0
        parts = [part] if tally is None else [tally, part]
        tally = join_tallies(parts, -(-bottleneck.sample_rows // world.size))
        seen += batch.rows
        if seen >= rows:
            break
    encoder.train(training)
    if tally is None or seen < rows:
        raise DataError(f"views.{view}: calibration asks {rows} rows and got {seen}")
    bottleneck.calibrate(reduce_tally([tally], world, bottleneck.sample_rows))
    _log.info("bottleneck calibrated on %d rows of view %s", seen, view)
    return seen
