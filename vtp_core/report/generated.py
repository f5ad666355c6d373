"""Samples of a generator for the report: a row of each class."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vtp_core.encoded import require_finite
from vtp_core.errors import UsageError
from vtp_core.generator import Generator
from vtp_core.tokenizer import Tokenizer
from vtp_core.tokenizer.generated import sampling_of

COLUMNS = 10
MOST_ROWS = 12
"""Classes that are shown, evenly spread where there are more; as many rows of a generator without classes."""
SEED = 0

_log = logging.getLogger(__name__)


@torch.no_grad()
def write_samples(model: Tokenizer, folder: Path) -> dict[str, Any] | None:
    """Writes PNG files of samples; None without a generator, or if it can't follow its own settings.

    Returns:
        Rows of the page: class name or number ("" where there are none), files; seed and settings.
    """
    if "generate" not in model.capabilities or model.config is None:
        return None
    try:
        settings = sampling_of(model, {})
    except UsageError as error:  # such as guidance in a recipe that was written before it was refused
        _log.warning("the report shows no samples: %s", error)
        return None
    head = model.exports["generate"]
    known = head.classes if isinstance(head, Generator) else 0
    count = min(known, MOST_ROWS) if known else MOST_ROWS // 2
    shown = [row * known // count for row in range(count)]
    names = model.config.classes
    rows = []
    for row, number in enumerate(shown):
        indices = torch.arange(row * COLUMNS, (row + 1) * COLUMNS, device=model.device)
        classes = torch.full_like(indices, number) if known else None
        latent = model.generate(indices, SEED, classes=classes)
        require_finite("generate", {"the generated latent is": latent}, head)
        images = model.postprocess(model.decode(latent.to(model.dtype)).sample)
        files = [_write(image, folder / f"generated-{row:02d}-{n:02d}.png") for n, image in enumerate(images)]
        title = "" if not known else names[number] if number < len(names) else f"class {number}"
        rows.append({"title": title, "files": files})
    return {"rows": rows, "seed": SEED, "settings": settings or {}}


def _write(image: Image.Image, path: Path) -> str:
    image.save(path)
    return path.name
