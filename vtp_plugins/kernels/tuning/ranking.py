"""The ranking that ``auto`` follows on a CUDA device: what `vtp kernels tune` measured there."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch

from vtp_core.ops import Ranking
from vtp_core.ops.choice import Choice
from vtp_plugins.kernels.tuning.key import key_of
from vtp_plugins.kernels.tuning.results import read_results

logger = logging.getLogger(__name__)


def ranking(choice: type[Choice[Any]], device: torch.device) -> Ranking | None:
    """Measured order of an operator's implementations on a CUDA device, or None; always None for CPUs.

    An untuned device and an unusable results file are logged as warnings, once per process.

    Args:
        choice: The operator's choice class.
        device: Any device.
    """
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    key = key_of(device)
    advice = "[kernels] auto takes torch's own implementations; `vtp kernels tune` measures all of them"
    try:
        results = read_results(key)
        if results is None:
            _warn_once(f"{key['device']} was not tuned: {advice}")
            return None
        return Ranking.from_data(results.get(choice.operator), choice.attributes())
    except ValueError as error:
        _warn_once(f"{error}: {advice}")
        return None


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)
