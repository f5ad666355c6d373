"""Settings of the evaluator `branches`. Imports no torch."""

from typing import Literal

from vtp_core.config import ComponentConfig


class BranchesConfig(ComponentConfig):
    """A table ``[evaluators.NAME]`` with ``use = "branches"``."""

    use: Literal["branches"] = "branches"
    """This evaluator."""
