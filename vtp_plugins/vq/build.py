"""Builds the quantiser of a recipe table."""

from __future__ import annotations

from vtp_plugins.vq.config import (
    BinaryConfig,
    EmaConfig,
    FsqConfig,
    IbqConfig,
    LearnedConfig,
    LeftOutConfig,
    LevelsConfig,
    ProductConfig,
    QuantizerConfig,
    ResidualFsqConfig,
    ResidualSimVqConfig,
    ResidualVqConfig,
    SimVqConfig,
)
from vtp_plugins.vq.ema import EmaQuantizer
from vtp_plugins.vq.ibq import IbqQuantizer
from vtp_plugins.vq.learned import LearnedQuantizer, SimVqQuantizer
from vtp_plugins.vq.library import ResidualCodebooks, ResidualLevels
from vtp_plugins.vq.product import ProductQuantizer
from vtp_plugins.vq.quantizer import Quantizer
from vtp_plugins.vq.scalar import BinaryQuantizer, FsqQuantizer


def own_width(config: QuantizerConfig) -> int | None:
    """Channels that a quantiser's table fixes; None: any number."""
    if isinstance(config, LevelsConfig):
        return len(config.levels)
    if isinstance(config, BinaryConfig):
        return config.bits
    if isinstance(config, ProductConfig):
        each = own_width(config.each)
        return None if each is None else each * config.groups
    return None


def build_quantizer(config: QuantizerConfig, dim: int) -> Quantizer:
    """The quantiser for vectors of width `dim`.

    Raises:
        ValueError: The width does not fit the table, or a package is missing.
    """
    width = own_width(config)
    if width is not None and width != dim:
        raise ValueError(f"quantizer {config.kind!r} takes {width} channels, the latent has {dim}")
    match config:
        case ProductConfig():
            if dim % config.groups:
                raise ValueError(f"quantizer: {dim} channels do not divide into {config.groups} groups")
            part = dim // config.groups
            return ProductQuantizer([build_quantizer(config.each, part) for _ in range(config.groups)])
        case EmaConfig():
            return EmaQuantizer(config, dim)
        case SimVqConfig():
            return SimVqQuantizer(config, dim)
        case IbqConfig():
            return IbqQuantizer(config, dim)
        case LearnedConfig():
            return LearnedQuantizer(config, dim)
        case FsqConfig():
            return FsqQuantizer(config)
        case BinaryConfig():
            return BinaryQuantizer(config)
        case ResidualVqConfig() | ResidualSimVqConfig():
            return ResidualCodebooks(config, dim)
        case ResidualFsqConfig():
            return ResidualLevels(config)
        case LeftOutConfig():  # its validator refuses all
            raise AssertionError(config.name)
