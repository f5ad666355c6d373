"""Tables of sources on a command line. Imports no torch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vtp_core.cli.arguments.tables import is_table, read_table
from vtp_core.errors import UsageError

if TYPE_CHECKING:
    from vtp_core.config import ComponentConfig
    from vtp_core.plugins import Plugins

HELD_OUT = "val"
"""Split that is measured where a source has splits and none is named."""


def read_source(text: str, plugins: Plugins) -> ComponentConfig:
    """A source's table: as it is given, or of the source that recognises a path."""
    from vtp_core.data.recognition import recognise

    if is_table(text) or not os.path.exists(os.path.expanduser(text)):
        return read_table(text, "source", plugins)
    return recognise(text, plugins)


def read_held_out(text: str, plugins: Plugins) -> ComponentConfig:
    """The config of a source to measure on: its split `val`, if it has splits and the text names none.

    Raises:
        UsageError: No split is named and it has no `val`.
    """
    from typing import get_args

    config = read_source(text, plugins)
    field = type(config).model_fields.get("split")
    if field is None or "split" in config.model_fields_set:
        return config
    splits = get_args(field.annotation)
    if HELD_OUT not in splits:
        known = " or ".join(f'"{split}"' for split in splits if isinstance(split, str))
        known = f" ({known})" if known else ""
        example = f'{{ use = "{config.use}", split = "..." }}'
        raise UsageError(
            f"source {config.use}: \"{HELD_OUT}\" is none of its splits; name one{known}, as in '{example}'"
        )
    return config.model_copy(update={"split": HELD_OUT})
