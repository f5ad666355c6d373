"""One table of every quantiser, for vectors of width 4."""

from __future__ import annotations

import torch
from pydantic import TypeAdapter

from vtp_core.math.moments import Moments
from vtp_plugins.pca_vq.config import BranchConfig
from vtp_plugins.pca_vq.rotated import RotatedQuantizer
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
    "residual": {"kind": "library", "name": "ResidualVQ", "codes": 8, "stages": 2},
    "residual simvq": {"kind": "library", "name": "ResidualSimVQ", "codes": 8, "stages": 2},
    "residual fsq": {"kind": "library", "name": "ResidualFSQ", "levels": [4, 3, 2, 5], "stages": 2},
    "product residual": {
        "kind": "product",
        "groups": 2,
        "each": {"kind": "library", "name": "ResidualVQ", "codes": 8, "stages": 2},
    },
    "product lfq": {"kind": "product", "groups": 2, "each": {"kind": "lfq", "bits": 2}},
}
ROTATED = {
    "pca_vq reweight": {"mode": "reweight", "alpha": 0.5},
    "pca_vq dsq": {"mode": "dsq", "rank": 2},
}
"""Modes of the quantiser of `pca_vq`."""
NAMES = (*TABLES, *ROTATED)
CODEBOOKS = ("ema", "cosine", "codebook_loss", "codebook_loss cosine", "simvq", "ibq", *ROTATED)
"""Those with one codebook of vectors."""


def config(name: str, **keys: object) -> QuantizerConfig:
    found: QuantizerConfig = TypeAdapter(QuantizerConfig).validate_python({**TABLES[name], **keys})
    return found


def build(name: str, **keys: object) -> Quantizer:
    """A quantiser in training mode; those of `pca_vq` are calibrated."""
    if name not in ROTATED:
        return build_quantizer(config(name, **keys), DIM)
    codebook = {"codes": 16, "commitment": 0.25, **keys}
    found = RotatedQuantizer(BranchConfig(axes=ROTATED[name], codebook=codebook), DIM, name)
    draw = torch.Generator().manual_seed(3)
    vectors = torch.randn(64, DIM, generator=draw) @ torch.randn(DIM, DIM, generator=draw)
    found.calibrate(Moments.of(vectors))
    found.initialise(vectors)
    return found


def table_of(quantizer: Quantizer) -> torch.Tensor:
    """The tensor (K, D) of its codes."""
    found = quantizer.codebook if hasattr(quantizer, "codebook") else quantizer.table
    assert isinstance(found, torch.Tensor)
    return found
