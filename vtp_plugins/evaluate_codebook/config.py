"""Settings of the evaluator `codebook`. Imports no torch."""

from typing import Literal

from vtp_core.config import ComponentConfig


class CodebookConfig(ComponentConfig):
    """A table ``[evaluators.NAME]`` with ``use = "codebook"``."""

    use: Literal["codebook"] = "codebook"
    """This evaluator."""
