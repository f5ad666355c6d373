"""The model card of an artefact."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from vtp_core.artefact.config import ArtefactConfig
from vtp_core.atomic import replacing_file
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import sides, size_text

_STORAGE = {
    "full": "unchanged",
    "bfloat16": "rounded to bfloat16",
    "int8": "matrices in 8 bit with one scale per row, `name:scale` beside `name`; the rest unchanged",
}


CARD = "README.md"
_SIGNATURE = b"\n<!-- vtp-core: sha256 of the text above %s; an edited card is kept -->\n"


@dataclass(frozen=True, kw_only=True)
class Number:
    """A measured number as the card shows it.

    Attributes:
        title: What was measured.
        value: The number with its unit, and what it can't be read without in parentheses.
        interval: Its 95 % interval, or empty.
        trivial: The strongest trivial answer and its name, or empty.
        protocol: How it was measured.
    """

    title: str
    value: str
    interval: str
    trivial: str
    protocol: str


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a run knows of its tokenizer beyond the artefact.

    Attributes:
        numbers: Measured of these weights.
        facts: Name and text of the data and of where weights come from.
    """

    numbers: Sequence[Number] = ()
    facts: Sequence[tuple[str, str]] = ()


def write_card(tokenizer: Tokenizer, config: ArtefactConfig, folder: Path, training: Training) -> None:
    """Replaces the card of an artefact by one with the run's numbers, unless it was edited."""
    if not is_edited(folder / CARD):
        with replacing_file(folder / CARD) as file:
            file.write(signed(model_card(tokenizer, config, training)))


def signed(card: str) -> bytes:
    """The file of a card: its last line is a comment with the hash of the rest, for `is_edited`."""
    text = card.encode(errors="backslashreplace")
    return text + _SIGNATURE % hashlib.sha256(text).hexdigest().encode()


def is_edited(path: Path) -> bool:
    """Whether a card is there that was not written here, or was edited since; ours are `signed`."""
    if not path.exists():
        return False
    content, length = path.read_bytes(), len(_SIGNATURE % (b"0" * 64))
    text = content[:-length]
    return content[-length:] != _SIGNATURE % hashlib.sha256(text).hexdigest().encode()


def model_card(tokenizer: Tokenizer, config: ArtefactConfig, training: Training | None = None) -> str:
    """The card as markdown: components, use, normalisation of the latents; numbers, data, licenses.

    Args:
        tokenizer: The tokenizer.
        config: Of its artefact.
        training: What its run knows; None: it is not at hand, and the card says what to add.
    """
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

{_numbers(training)}
{_origin(tokenizer, config, training)}
## Before you publish it

{_missing(training)}
"""


def _text(value: object) -> str:
    """Untrusted text of a config as one line of Markdown, without HTML, code or table cells."""
    line = " ".join(str(value).split())
    return html.escape(line).replace("`", "&#96;").replace("|", "&#124;")


def _count(module: nn.Module) -> str:
    count = sum(parameter.numel() for parameter in module.parameters())
    return f"{count / 1e6:.2f} M" if count >= 100_000 else f"{count}"


def _numbers(training: Training | None) -> str:
    if training is None or not training.numbers:
        return ""
    protocols = list(dict.fromkeys(number.protocol for number in training.numbers))
    rows = [
        f"| {_text(number.title)} | {_text(number.value)} | {_text(number.interval or '-')} "
        f"| {_text(number.trivial or '-')} | {protocols.index(number.protocol) + 1} |"
        for number in training.numbers
    ]
    listed = [f"{at}. {_text(protocol)}" for at, protocol in enumerate(protocols, 1)]
    head = (
        "| | value | 95 % interval | strongest trivial answer | protocol |\n| --- | --- | --- | --- | --- |"
    )
    return "\n".join(["## Measured", "", head, *rows, "", "Protocols:", "", *listed, ""])


def _origin(tokenizer: Tokenizer, config: ArtefactConfig, training: Training | None) -> str:
    """Data, and licenses of all weights that the encoder did not learn here."""
    read = [f"Weights of another project; license {config.license}"] if config.license else []
    notices = [f"- {_text(line)}" for line in (*read, *tokenizer.encoder.notices())]
    facts = [f"| {_text(name)} | {_text(text)} |" for name, text in (training.facts if training else ())]
    parts: list[str] = []
    if facts:
        parts += ["## Training data", "", "| | |", "| --- | --- |", *facts, ""]
    if notices:
        parts += ["## Weights of others", "", *notices, ""]
    return "\n".join(parts)


def _missing(training: Training | None) -> str:
    """What the author adds by hand."""
    asked = ["the licenses of the data", "the intended use"]
    if training is None or not training.facts:
        asked.insert(0, "the training data")
    if training is None or not training.numbers:
        asked.append(
            "the measured quality with the protocol of each number (`eval.json` of the run has both)"
        )
    return f"State {', '.join(asked[:-1])} and {asked[-1]}."
