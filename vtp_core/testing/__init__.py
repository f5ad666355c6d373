"""Public support for tests of plugins: conformance checks, a step without a run, drawn pictures, ranks."""

from vtp_core.testing.augmentations import check_augmentation
from vtp_core.testing.batches import drawn_batch
from vtp_core.testing.conformance import ConformanceError, check_objective
from vtp_core.testing.fake_step import FakeStep
from vtp_core.testing.networks import TINY_DIMS, TinyNetworks
from vtp_core.testing.ranks import run_processes, run_ranks
from vtp_core.testing.shapes import Drawing, draw
from vtp_core.testing.shapes_source import ShapesSource

__all__ = [
    "TINY_DIMS",
    "ConformanceError",
    "Drawing",
    "FakeStep",
    "ShapesSource",
    "TinyNetworks",
    "check_augmentation",
    "check_objective",
    "draw",
    "drawn_batch",
    "run_processes",
    "run_ranks",
]
