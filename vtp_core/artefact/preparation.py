"""Applies the inference preparations of installed plugins to a loaded tokenizer."""

from __future__ import annotations

from collections.abc import Iterator

from vtp_core.plugins import BrokenComponent, Plugins
from vtp_core.tokenizer import Tokenizer


def prepare(tokenizer: Tokenizer, plugins: Plugins) -> Iterator[str]:
    """Changes a tokenizer in place for inference on its present device; results may differ in rounding.

    Args:
        tokenizer: In evaluation mode, on the device and in the dtype in which it will be used.
        plugins: Those with the hook `register_preparations`.

    Yields:
        One line for each preparation that applied or could not be imported.
    """
    for component in plugins.components("preparation"):
        try:
            apply = component.load_target()
        except BrokenComponent as error:
            yield f"left out: {error}"
            continue
        if line := apply(tokenizer):
            yield f"{component.name}: {line}"
