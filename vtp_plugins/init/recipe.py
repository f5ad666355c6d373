"""Writes a choice as a commented recipe. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vtp_core.recipe.writing.dump import literal
from vtp_core.view import sides
from vtp_plugins.init.choice import Choice

Keys = Mapping[str, object]


def recipe_text(name: str, choice: Choice, train: Keys, held_out: Keys | None) -> str:
    """The recipe.

    Args:
        name: Of the run.
        choice: What it says.
        train: Table of the training source.
        held_out: Table of the held-out source; None: nothing is evaluated.
    """
    parts = [
        _head(name, choice),
        *_data(choice),
        _source("data.source", train),
        *_views(choice),
        *_networks(choice),
        *_objectives(choice),
        *_optimizer(choice),
        *(() if held_out is None else _evaluation(choice, held_out)),
    ]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def _note(code: str, comment: str) -> str:
    """A line with its comment."""
    return f"{code:<28}  # {comment}"


def _head(name: str, choice: Choice) -> str:
    learned = ["to reconstruct them from a small grid of latents"]
    learned += ["to tell what is in them, from the images alone"] if choice.ssl_rows else []
    learned += ["to match images and captions"] if choice.clip else []
    goals = "".join(f"#   - {goal}\n" for goal in learned)
    place = "a GPU" if choice.gpu else "a CPU: raise steps, rows, size and widths on a GPU"
    return f"""\
# A tokenizer of your images, written by `vtp init`. It learns
{goals}# Sizes are for {place}. `vtp plan` says what they take.
schema = 1
name = {literal(name)}

[run]
{_note(f"steps = {choice.steps}", "ten times as many are better, if you have the time")}
seed = 0
precision = {literal("bfloat16" if choice.bfloat16 else "float32")}
out = {literal(f"runs/{name}")}
log_every = 10
checkpoint_every = {max(100, choice.steps // 10)}
"""


def _size(choice: Choice, part: int = 1) -> str:
    """The views' size, divided by `part`."""
    height, width = (side // part for side in sides(choice.size))
    return str(height) if height == width else literal((height, width))


def _source(table: str, keys: Keys) -> str:
    lines = []
    for key, value in keys.items():
        if isinstance(value, list | tuple) and len(literal(value)) > 90:
            lines.append(f"{key} = [\n" + "".join(f"    {literal(item)},\n" for item in value) + "]")
        else:
            lines.append(f"{key} = {literal(value)}")
    comments = {
        "part": "by hash of the name: new images do not move old ones",
        "exclude": "can't be used",
    }
    for place, line in enumerate(lines):
        first, end, rest = line.partition("\n")
        if comment := comments.get(line.partition(" ")[0]):
            lines[place] = _note(first, comment) + end + rest
    return f"[{table}]\n" + "\n".join(lines)


def _data(choice: Choice) -> Iterator[str]:
    lines = []
    if choice.workers:
        lines.append(_note(f"workers = {choice.workers}", "processes that read images"))
    if choice.max_bad_fraction is not None:
        bad = f"max_bad_fraction = {choice.max_bad_fraction}"
        lines.append(_note(bad, "twice what a look at some of the images found"))
    if lines:
        yield "[data]\n" + "\n".join(lines)


def _views(choice: Choice) -> Iterator[str]:
    augment = "clip" if choice.clip else "crop"
    scale = "" if choice.clip else "\ncrops.global = { scale = [0.5, 1.0] }"
    meaning = (
        "nearly whole, so that the caption fits" if choice.clip else "random crops, half of them mirrored"
    )
    use = "what is reconstructed" + (" and compared with captions" if choice.clip else "")
    yield f"""\
{_note("[views.image]", use)}
rows = {choice.rows}
size = {_size(choice)}
{_note(f"augment = {literal(augment)}", meaning)}{scale}
"""
    if choice.ssl_rows:
        yield f"""\
[views.ssl]                   # crops of an image that get the same meaning
rows = {choice.ssl_rows}
size = {_size(choice)}
augment = "crop"              # "dino" also changes colors: use it where they mean little
crops.global = {{ count = 2, scale = [0.5, 1.0] }}
crops.local = {{ count = 2, size = {_size(choice, 2)}, scale = [0.1, 0.5] }}
masks = {{}}
"""


def _networks(choice: Choice) -> Iterator[str]:
    grid = " x ".join(str(side // choice.patch) for side in sides(choice.size))
    wide = 'preset = "s"' if choice.gpu else "width = 192\ndepth = 6\nheads = 3"
    narrow = 'preset = "s"' if choice.gpu else "width = 192\ndepth = 4\nheads = 3"
    yield f"""\
[encoder]
use = "vit"
{wide}
{_note(f"patch = {choice.patch}", f"pixels a position: the latent has {grid} positions")}
"""
    yield """\
[bottleneck]
use = "linear"
channels = 32                 # values a position: fewer compress more, more reconstruct better
"""
    yield f"""\
[decoder]
use = "vit"
{narrow}
"""


def _objectives(choice: Choice) -> Iterator[str]:
    if choice.clip:
        text = "" if choice.gpu else "context = 32\nwidth = 128\ndepth = 2\nheads = 2\n"
        yield f"""\
[objectives.clip]             # image-text contrast, on the latents
use = "clip"
view = "image"
weight = 0.4
bottleneck = true
features = "pooled"
{text}"""
    if choice.ssl_rows:
        ramp = choice.steps // 3
        schedule = f'{{ kind = "linear", start = 0.04, end = 0.07, steps = {ramp} }}'
        yield f"""\
[objectives.dino]             # self-distillation: crops of an image agree
use = "dino"
view = "ssl"
weight = 0.3
prototypes = {4096 if choice.gpu else 512}
head_hidden = 512
head_width = 128
freeze_prototypes = {choice.steps // 6}
teacher_temperature = {schedule}
"""
        yield f"""\
[objectives.mim]              # masked image modelling: predicts masked patches
use = "mim"
view = "ssl"
weight = 0.3
share_head_with = "dino"
teacher_temperature = {schedule}
"""
        yield """\
[objectives.koleo]            # spreads the embeddings of different images
use = "koleo"
view = "ssl"
weight = 0.03
"""
    yield """\
[objectives.l1]               # absolute error of the pixels
use = "l1"
view = "image"
"""
    if choice.perceptual:
        yield """\
[objectives.perceptual]       # error in the features of a pretrained network
use = "perceptual"
view = "image"
network = "lpips_squeeze_ndf"   # in a package; lpips_vgg is better, and a download
weight = 0.2
"""


def _optimizer(choice: Choice) -> Iterator[str]:
    start = "5e-4" if choice.gpu else "1e-3"
    yield f"""\
[optimizer]
lr = {{ kind = "cosine", start = {start}, end = 1e-5, warmup = {choice.steps // 10} }}
betas = [0.9, 0.98]
clip_scope = "owner"
"""
    if choice.ssl_rows:
        yield """\
[ema]                         # the teacher of dino and mim: a moving average of the weights
momentum = { kind = "cosine", start = 0.98, end = 0.996 }
"""


def _evaluation(choice: Choice, held_out: Keys) -> Iterator[str]:
    yield "# Everything below measures images that training never sees."
    yield _source("evaluate.source", held_out)
    yield '[evaluators.reconstruction]\nuse = "reconstruction"'
    if choice.probes:
        yield f"""\
[evaluators.knn]
use = "knn"
features = "latent_map"
neighbors = {choice.neighbors}
"""
        yield '[evaluators.linear_probe]\nuse = "linear_probe"\nfeatures = "latent_map"'
    if choice.clip:
        yield '[evaluators.retrieval]\nuse = "retrieval"'
        if choice.probes and choice.named:
            yield '[evaluators.zero_shot]\nuse = "zero_shot"'
