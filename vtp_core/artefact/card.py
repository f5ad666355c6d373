"""The model card of an artefact."""

from __future__ import annotations

import html

from torch import nn

from vtp_core.artefact.config import ArtefactConfig
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import sides, size_text

_STORAGE = {
    "full": "unchanged",
    "bfloat16": "rounded to bfloat16",
    "int8": "matrices in 8 bit with one scale per row, `name:scale` beside `name`; the rest unchanged",
}


def model_card(tokenizer: Tokenizer, config: ArtefactConfig) -> str:
    """The card as markdown: components, use and normalisation of the latents."""
    patch, channels = tokenizer.encoder.patch, tokenizer.bottleneck.channels
    height, width = sides(config.image_size)
    grid, only = tokenizer.encoder.grid(height, width), tokenizer.encoder.only_size
    shape = " x ".join(map(str, grid))
    placed = grid == (height // patch, width // patch)
    how = f"{patch} px per position" if placed else "tokens without places in the image"
    recipe, version = _text(config.recipe or "unnamed"), _text(config.vtp_version)
    exports = ", ".join(f"`{_text(name)}`" for name in sorted(tokenizer.exports))
    codes = ", ".join(str(size) for size in tokenizer.bottleneck.codebook_sizes)
    rows = [
        (
            "image size",
            f"{size_text(config.image_size)} px "
            + (f"(other multiples of {patch} px may work)" if only is None else "(no other)"),
        ),
        ("latent", f"{channels} x {shape} ({how})"),
        ("codes", f"codebooks of {codes}" if codes else "none: the latent is continuous"),
        ("input and output", "ImageNet-normalised pixels; `preprocess` and `postprocess` convert"),
        ("encoder", f"`{_text(config.encoder['use'])}`, {_count(tokenizer.encoder)} parameters"),
        ("bottleneck", f"`{_text(config.bottleneck['use'])}`, {_count(tokenizer.bottleneck)} parameters"),
        (
            "decoder",
            "none"
            if config.decoder is None or tokenizer.decoder is None
            else f"`{_text(config.decoder['use'])}`, {_count(tokenizer.decoder)} parameters",
        ),
        ("exported", exports or "none"),
        ("weights", f"{config.weights}, after {config.step if config.step is not None else 'unknown'} steps"),
        ("stored", _STORAGE[config.storage]),
        ("latent statistics", _text(config.latents_stats_protocol or "not measured")),
    ]
    rows += [("notice", _text(line)) for line in tokenizer.encoder.notices()]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"""---
library_name: vtp
tags: [visual-tokenizer, image-autoencoder]
---

# Visual tokenizer `{recipe}`

Written by vtp-core {version}.

| | |
| --- | --- |
{table}

## Use

```python
from vtp_core import load

tokenizer = load("PATH/TO/THIS/FOLDER")
pixels = tokenizer.preprocess(["photo.png"])      # paths, PIL images or arrays
latent = tokenizer.encode(pixels).latent          # (B, {channels}, {shape.replace(" x ", ", ")})
images = tokenizer.postprocess(tokenizer.decode(latent).sample)
```

`config.json` holds the component tables and, if measured, the per-channel mean and standard deviation of the
latents (`encode_normalized` and `decode_normalized` apply them). `heads/` holds what objectives export.

## Before you publish it

State the training data and their licences, the intended use, and the measured quality with the protocol of
each number (`eval.json` of the run has both).
"""


def _text(value: object) -> str:
    """Untrusted text of a config as one line of Markdown, without HTML, code or table cells."""
    line = " ".join(str(value).split())
    return html.escape(line).replace("`", "&#96;").replace("|", "&#124;")


def _count(module: nn.Module) -> str:
    count = sum(parameter.numel() for parameter in module.parameters())
    return f"{count / 1e6:.2f} M" if count >= 100_000 else f"{count}"
