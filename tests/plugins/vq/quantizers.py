"""One table of every quantiser, for vectors of width 4."""

from __future__ import annotations

from pydantic import TypeAdapter

from vtp_plugins.vq.build import build_quantizer
from vtp_plugins.vq.config import QuantizerConfig
from vtp_plugins.vq.quantizer import Quantizer

DIM = 4
TABLES: dict[str, dict[str, object]] = {
    "ema": {"kind": "ema", "codes": 16},
    "ema rotation": {"kind": "ema", "codes": 16, "through": "rotation"},
    "cosine": {"kind": "ema", "codes": 16, "metric": "cosine"},
    "codebook_loss": {"kind": "codebook_loss", "codes": 16},
    "codebook_loss cosine": {"kind": "codebook_loss", "codes": 16, "metric": "cosine"},
    "simvq": {"kind": "simvq", "codes": 16},
    "ibq": {"kind": "ibq", "codes": 16},
    "fsq": {"kind": "fsq", "levels": [4, 3, 2, 5]},
    "lfq": {"kind": "lfq", "bits": 4},
    "bsq": {"kind": "bsq", "bits": 4},
    "product": {"kind": "product", "groups": 2, "each": {"kind": "ema", "codes": 8}},
    "product lfq": {"kind": "product", "groups": 2, "each": {"kind": "lfq", "bits": 2}},
}
CODEBOOKS = ("ema", "cosine", "codebook_loss", "simvq", "ibq")
"""Those with one codebook of vectors."""


def config(name: str, **keys: object) -> QuantizerConfig:
    found: QuantizerConfig = TypeAdapter(QuantizerConfig).validate_python({**TABLES[name], **keys})
    return found


def build(name: str, **keys: object) -> Quantizer:
    return build_quantizer(config(name, **keys), DIM)
