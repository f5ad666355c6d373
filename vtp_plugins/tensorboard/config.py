"""Recipe table of the `tensorboard` callback. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vtp_core.config import ComponentConfig


class TensorBoardConfig(ComponentConfig):
    """``[callbacks.NAME] use = "tensorboard"``."""

    use: str = "tensorboard"
    """Name of the component."""
    folder: Annotated[str, Field(min_length=1)] = "tensorboard"
    """Folder of the event files, below the run folder; an absolute path stands as it is."""
    flush_seconds: Annotated[int, Field(ge=1)] = 30
    """Longest time that values stay in memory."""
