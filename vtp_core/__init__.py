"""The core of a framework to pre-train, evaluate and hand over visual tokenizers.

``import vtp_core`` imports no torch; `load` and the classes below do when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtp_core.artefact.loading import load
    from vtp_core.bottleneck import Bottleneck
    from vtp_core.decoder import Decoder
    from vtp_core.encoded import Decoded, Encoded, LatentDistribution
    from vtp_core.encoder import Encoder
    from vtp_core.objective import AdversarialObjective, Objective
    from vtp_core.tokenizer import Tokenizer

try:
    __version__ = version("vtp-core")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

_HOMES = {
    "load": "vtp_core.artefact.loading",
    "Tokenizer": "vtp_core.tokenizer",
    "Encoded": "vtp_core.encoded",
    "Decoded": "vtp_core.encoded",
    "LatentDistribution": "vtp_core.encoded",
    "Encoder": "vtp_core.encoder",
    "Bottleneck": "vtp_core.bottleneck",
    "Decoder": "vtp_core.decoder",
    "Objective": "vtp_core.objective",
    "AdversarialObjective": "vtp_core.objective",
}

__all__ = [
    "AdversarialObjective",
    "Bottleneck",
    "Decoded",
    "Decoder",
    "Encoded",
    "Encoder",
    "LatentDistribution",
    "Objective",
    "Tokenizer",
    "__version__",
    "load",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'vtp_core' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
