"""The core of a framework to pre-train, evaluate and hand over visual tokenizers.

A plugin's author needs ``import vtp_core as vtp`` and, in tests, `vtp_core.testing`. Each name below is
imported when it is first used, torch only with a name that needs it.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtp_core.artefact.loading import load
    from vtp_core.batch import Batch
    from vtp_core.bottleneck import Bottleneck
    from vtp_core.config import (
        AugmentationConfig,
        ComponentConfig,
        EvaluatorConfig,
        GeneratedEvaluatorConfig,
        KeyHistory,
        ObjectiveConfig,
        OptimizerConfig,
        SourceConfig,
        Table,
    )
    from vtp_core.data.augmentation import Augmentation, Crop
    from vtp_core.data.source import BadSample, Sample, Source
    from vtp_core.decoder import Decoder
    from vtp_core.encoded import Decoded, Encoded, LatentDistribution
    from vtp_core.encoder import Encoder
    from vtp_core.errors import DataError, UsageError, VtpError
    from vtp_core.evaluation.evaluator import Evaluator, GeneratedBatch, Observation
    from vtp_core.evaluation.intervals import score_of
    from vtp_core.evaluation.protocol import Baseline, GeneratedPass, Metric, Score
    from vtp_core.features import Features, Latent, Losses, Reconstruction, Tally, Tokens
    from vtp_core.generator import Generator
    from vtp_core.math.moments import Moments
    from vtp_core.math.row_noise import row_rand, row_randn
    from vtp_core.objective import AdversarialObjective, Objective
    from vtp_core.parameters import Dims, ParamRule
    from vtp_core.pixels import ValueRange
    from vtp_core.plugins.diagnosis import Diagnosis
    from vtp_core.plugins.hookspecs import Register, hookimpl
    from vtp_core.recipe.tables.data import DecodeLimits
    from vtp_core.recipe.tables.optimizer import AdamWConfig
    from vtp_core.run.callback import Callback, RunInfo
    from vtp_core.schedule import Schedule, Scheduled, value_at
    from vtp_core.step import Step, Teacher
    from vtp_core.tokenizer import Tokenizer
    from vtp_core.training.optim.algorithm import AdamW, OptimizerAlgorithm
    from vtp_core.view import ViewNeed, ViewSize

try:
    __version__ = version("vtp-core")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

_NAMES = {
    "vtp_core.artefact.loading": ("load",),
    "vtp_core.batch": ("Batch",),
    "vtp_core.bottleneck": ("Bottleneck",),
    "vtp_core.config": (
        "AugmentationConfig",
        "ComponentConfig",
        "EvaluatorConfig",
        "GeneratedEvaluatorConfig",
        "KeyHistory",
        "ObjectiveConfig",
        "OptimizerConfig",
        "SourceConfig",
        "Table",
    ),
    "vtp_core.data.augmentation": ("Augmentation", "Crop"),
    "vtp_core.data.source": ("BadSample", "Sample", "Source"),
    "vtp_core.decoder": ("Decoder",),
    "vtp_core.encoded": ("Decoded", "Encoded", "LatentDistribution"),
    "vtp_core.encoder": ("Encoder",),
    "vtp_core.errors": ("DataError", "UsageError", "VtpError"),
    "vtp_core.evaluation.evaluator": ("Evaluator", "GeneratedBatch", "Observation"),
    "vtp_core.evaluation.intervals": ("score_of",),
    "vtp_core.evaluation.protocol": ("Baseline", "GeneratedPass", "Metric", "Score"),
    "vtp_core.features": ("Features", "Latent", "Losses", "Reconstruction", "Tally", "Tokens"),
    "vtp_core.generator": ("Generator",),
    "vtp_core.math.moments": ("Moments",),
    "vtp_core.objective": ("AdversarialObjective", "Objective"),
    "vtp_core.parameters": ("Dims", "ParamRule"),
    "vtp_core.pixels": ("ValueRange",),
    "vtp_core.plugins.diagnosis": ("Diagnosis",),
    "vtp_core.plugins.hookspecs": ("Register", "hookimpl"),
    "vtp_core.recipe.tables.data": ("DecodeLimits",),
    "vtp_core.recipe.tables.optimizer": ("AdamWConfig",),
    "vtp_core.math.row_noise": ("row_rand", "row_randn"),
    "vtp_core.run.callback": ("Callback", "RunInfo"),
    "vtp_core.schedule": ("Schedule", "Scheduled", "value_at"),
    "vtp_core.step": ("Step", "Teacher"),
    "vtp_core.tokenizer": ("Tokenizer",),
    "vtp_core.training.optim.algorithm": ("AdamW", "OptimizerAlgorithm"),
    "vtp_core.view": ("ViewNeed", "ViewSize"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "AdamW",
    "AdamWConfig",
    "AdversarialObjective",
    "Augmentation",
    "AugmentationConfig",
    "BadSample",
    "Baseline",
    "Batch",
    "Bottleneck",
    "Callback",
    "ComponentConfig",
    "Crop",
    "DataError",
    "DecodeLimits",
    "Decoded",
    "Decoder",
    "Diagnosis",
    "Dims",
    "Encoded",
    "Encoder",
    "Evaluator",
    "EvaluatorConfig",
    "Features",
    "GeneratedBatch",
    "GeneratedEvaluatorConfig",
    "GeneratedPass",
    "Generator",
    "KeyHistory",
    "Latent",
    "LatentDistribution",
    "Losses",
    "Metric",
    "Moments",
    "Objective",
    "ObjectiveConfig",
    "Observation",
    "OptimizerAlgorithm",
    "OptimizerConfig",
    "ParamRule",
    "Reconstruction",
    "Register",
    "RunInfo",
    "Sample",
    "Schedule",
    "Scheduled",
    "Score",
    "Source",
    "SourceConfig",
    "Step",
    "Table",
    "Tally",
    "Teacher",
    "Tokenizer",
    "Tokens",
    "UsageError",
    "ValueRange",
    "ViewNeed",
    "ViewSize",
    "VtpError",
    "__version__",
    "hookimpl",
    "load",
    "row_rand",
    "row_randn",
    "score_of",
    "value_at",
]


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'vtp_core' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
