"""A whole training step of a vector quantiser: search, loss, gradient, codebook, revival and meters.

Ours looks for dead codes in every tenth step, as it does by default; a step that does is a variant of its
own. The peer looks in every step. The meters are also timed in place, within the whole step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vtp_core.features import Tally
from vtp_plugins.bench.case import BenchCase
from vtp_plugins.bench.config import BenchOptions
from vtp_plugins.bench.peers.peer import Call, Peer, gather, limit_threads
from vtp_plugins.bench.sizes import sizes
from vtp_plugins.kernels.timing import Clock
from vtp_plugins.vq.config import EmaConfig
from vtp_plugins.vq.ema import EmaQuantizer
from vtp_plugins.vq.meters import Meters
from vtp_plugins.vq.tokens import spread

SHAPES = ("4096x1024x64", "4096x8192x32", "4096x16384x64")
FORMAT = "VECTORSxCODESxWIDTH"

DECAY = 1 - 2.0**-20
"""Decay of the codebook's running mean. The codes change in every step, as in training, so a cache of
prepared codes gives no advantage; the change is so small that each round does the same work."""

CLOSE = 1e-3
"""Largest difference of quantised values: one step of the running mean."""

DEAD_BELOW = 1e-3
"""Share of an even use, and count of the peer, below which a code is dead: both look for dead codes, and find
none, so that each round does the same work."""

SAMPLE = (64, 16)
"""Images of a step and vectors of each that serve the revival, as the bottleneck `vq` takes by default."""


def build(shape: str, options: BenchOptions) -> BenchCase:
    """Normal vectors that want a gradient, and normal codes; the codebook is in float32."""
    rows, codes, width = sizes(shape, 3)
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, options.precision)
    vectors = torch.randn(rows, width, generator=generator).to(options.device, dtype).requires_grad_()
    codebook = torch.randn(codes, width, generator=generator).to(options.device)
    limit_threads(options.threads)
    peer = Peer(
        name="vector-quantize-pytorch",
        build=lambda: _peer(vectors, codebook),
        needs=("vector_quantize_pytorch",),
        refuses=None if options.precision == "float32" else "takes float32 only",
    )
    peers, skipped = gather([peer]) if options.peers else ({}, {})
    ours = {
        "vtp": _ours(vectors, codebook),
        "vtp, reviving in every step": _ours(vectors, codebook, revive_every=1),
        "vtp, without meters": _ours(vectors, codebook, meters=_NoMeters()),
    }
    return BenchCase(
        name="vq_step",
        question="What does a whole quantiser step cost: search, codebook, revival, meters and gradient?",
        shape=shape,
        rows=rows,
        unit="vectors",
        variants={**ours, **peers},
        check=_check,
        flop=2.0 * rows * codes * width,
        skipped=skipped,
        parts={"meters": _meters_of(vectors, codebook)},
    )


class _NoMeters(nn.Module):
    def update(self, counts: Tensor, index: int) -> None:
        """Counts nothing."""

    def report(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}


class _TimedMeters(Meters):
    """Adds up the seconds that it takes."""

    clock: Clock | None = None
    seconds = 0.0

    def update(self, counts: Tensor, index: int) -> None:
        start = self._now()
        super().update(counts, index)
        self.seconds += self._now() - start

    def report(self) -> dict[str, Tensor]:
        start = self._now()
        found = super().report()
        self.seconds += self._now() - start
        return found

    def _now(self) -> float:
        return 0.0 if self.clock is None else self.clock()


def _meters_of(vectors: Tensor, codebook: Tensor) -> Callable[[Clock], float]:
    """Makes a step and returns the seconds of its meters."""
    config = EmaConfig()
    meters = _TimedMeters(len(codebook), window=config.window, alarm=config.alarm).to(codebook.device)
    call = _ours(vectors, codebook, meters=meters)

    def seconds(clock: Clock) -> float:
        meters.clock, meters.seconds = clock, 0.0
        call()
        return meters.seconds

    return seconds


def _ours(
    vectors: Tensor, codebook: Tensor, *, revive_every: int = 10, meters: nn.Module | None = None
) -> Call:
    config = EmaConfig(
        codes=len(codebook), decay=DECAY, commitment=1.0, dead_below=DEAD_BELOW, revive_every=revive_every
    )
    quantizer = EmaQuantizer(config, codebook.shape[1]).to(codebook.device).train()
    quantizer.set_codebook(codebook)
    if meters is not None:
        quantizer.meters = meters  # type: ignore[assignment]
    images = min(SAMPLE[0], len(vectors))
    step = 0

    def call() -> Tensor:
        nonlocal step
        step += 1
        quantizer.before_step(range(step, step + 1))
        found = quantizer(vectors)
        torch.autograd.grad(found.vectors.sum() + found.aux["commitment"], vectors)
        rows = {
            name: spread(value[: len(value) // images * images].unflatten(0, (images, -1)), SAMPLE[1])
            for name, value in found.tally.rows.items()
        }
        quantizer.after_step(Tally(sums=found.tally.sums, rows=rows), step)
        return found.vectors

    return call


def _peer(vectors: Tensor, codebook: Tensor) -> Call:
    from vector_quantize_pytorch import VectorQuantize

    module = VectorQuantize(
        codebook.shape[1],
        codebook_size=codebook.shape[0],
        decay=DECAY,
        threshold_ema_dead_code=DEAD_BELOW,
        rotation_trick=False,
    ).train()
    module.to(vectors.device)
    module._codebook.embed.data.copy_(codebook[None])
    module._codebook.embed_avg.data.copy_(codebook[None])
    module._codebook.cluster_size.data.fill_(1)

    def call() -> Tensor:
        quantized, _, commitment = module(vectors[None])
        torch.autograd.grad(quantized.sum() + commitment.sum(), vectors)
        return quantized[0]

    return call


def _check(found: object, expected: object) -> str | None:
    assert isinstance(found, Tensor) and isinstance(expected, Tensor)
    if found.dtype != expected.dtype:
        return f"{found.dtype} instead of {expected.dtype}"
    differing = ((found - expected).abs() > CLOSE).any(1).double().mean().item()
    return None if differing <= 1e-3 else f"{differing:.1%} of the vectors are quantised differently"
