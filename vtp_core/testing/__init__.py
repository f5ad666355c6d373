"""Public support for tests of plugins: conformance checks, a step without a run, drawn pictures, ranks."""

from vtp_core.testing.batches import drawn_batch
from vtp_core.testing.checks.augmentations import check_augmentation
from vtp_core.testing.checks.bottlenecks import check_bottleneck, drawn_features
from vtp_core.testing.checks.decoders import check_decoder
from vtp_core.testing.checks.encoders import check_encoder
from vtp_core.testing.checks.evaluators import check_evaluator
from vtp_core.testing.checks.objectives import ConformanceError, check_objective
from vtp_core.testing.checks.sources import check_source
from vtp_core.testing.checks.tokenizers import check_tokenizer
from vtp_core.testing.fake_step import FakeStep
from vtp_core.testing.networks import TINY_DIMS, TinyNetworks
from vtp_core.testing.ranks import run_processes, run_ranks
from vtp_core.testing.shapes import Drawing, draw
from vtp_core.testing.shapes_source import ShapesSource
from vtp_core.testing.tiny_tokenizer import tiny_tokenizer

__all__ = [
    "TINY_DIMS",
    "ConformanceError",
    "Drawing",
    "FakeStep",
    "ShapesSource",
    "TinyNetworks",
    "check_augmentation",
    "check_bottleneck",
    "check_decoder",
    "check_encoder",
    "check_evaluator",
    "check_objective",
    "check_source",
    "check_tokenizer",
    "draw",
    "drawn_batch",
    "drawn_features",
    "run_processes",
    "run_ranks",
    "tiny_tokenizer",
]
