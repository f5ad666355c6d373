"""A plugin of one file whose source writes down every opening; loaded with ``--plugin``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy

from vtp_core.config import ComponentConfig
from vtp_core.data.source import Sample
from vtp_core.plugins import hookimpl

vtp_api = 2


class CountedConfig(ComponentConfig):
    log: Path
    """File that gets a line for each opening: process and name."""
    name: str = "train"
    """Name of the data."""


class Counted:
    """Drawn images."""

    fields = frozenset({"image"})
    classes = ()

    def __init__(self, config, limits):
        self.config = config
        with config.log.open("a") as file:
            file.write(f"{os.getpid()} {config.name} {limits.min_side}\n")

    def __len__(self):
        return 16

    def read(self, index, fields):
        image = numpy.random.default_rng(index).integers(0, 256, (20, 20, 3), dtype=numpy.uint8)
        return Sample(key=f"{self.config.name}-{index}", image=image)


@hookimpl
def register_sources(register):
    register("images", Counted, config=CountedConfig, summary="Drawn images.")
