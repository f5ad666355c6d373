"""Settings of the evaluator `reconstruction`. Imports no torch."""

from typing import Literal

from vtp_core.config import ComponentConfig


class ReconstructionConfig(ComponentConfig):
    """A table ``[evaluators.NAME]`` with ``use = "reconstruction"``."""

    use: Literal["reconstruction"] = "reconstruction"
    """This evaluator."""
