"""What a recipe for some images on some machine is. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles

from vtp_core.view import Size, size_text
from vtp_plugins.init.machine import Machine
from vtp_plugins.init.scan import Findings

_SIZES = (256, 128, 64, 32, 16)
_LIKE = 1.15  # factor by which proportions may differ and still be the same
# Memory of the recipe on a GPU, as `vtp plan` estimates it for 128 and for 256 pixels.
_FILLED, _FIXED_GIB, _ROW_GIB = 0.7, 2.7, 0.15
_SLOW = 0.5  # seconds a step may wait for images


@dataclass(frozen=True)
class Choice:
    """What a recipe says besides its sources.

    Attributes:
        gpu: Whether it is for a GPU.
        size: Side of the views in pixels, or height and width.
        patch: Patch of the encoder.
        rows: Images in a step.
        ssl_rows: Images of the self-distilled view; 0: there is none.
        steps: Length of the run.
        workers: Processes that read images.
        bfloat16: Whether networks compute in bfloat16.
        clip: Whether captions are learned.
        perceptual: Whether there is a perceptual loss.
        probes: Whether labels are good for probes.
        named: Whether classes have names, for zero-shot classification.
        neighbors: Images that vote in the nearest-neighbour probe.
        max_bad_fraction: Of `[data]`; None: the default.
        reasons: What was chosen and why, as (what, why).
    """

    gpu: bool
    size: Size
    patch: int
    rows: int
    ssl_rows: int
    steps: int
    workers: int
    bfloat16: bool
    clip: bool
    perceptual: bool
    probes: bool
    named: bool
    neighbors: int
    max_bad_fraction: float | None
    reasons: Sequence[tuple[str, str]]


def choose(found: Findings, machine: Machine) -> Choice:
    """Sizes and objectives that the images can serve and the machine can train in a sitting.

    Args:
        found: What is in the training source; at least one image could be read.
        machine: Where the recipe will run.
    """
    gpu = machine.gpu_gib > 0
    usable = found.total - len(found.bad)
    trained = max(1, round(usable * (1 - (found.held_out or 0.0))))
    side, sizes = _side(found, 256 if machine.gpu_gib >= 16 else 128 if gpu else 64)
    patch = max(2, side // (16 if gpu else 8))
    shape = _shape(found, side, 2 * patch)
    workers = min(8, machine.cores) if gpu else (min(4, machine.cores) if found.seconds > 0.005 else 0)
    rows, reading = _rows(found, machine, trained, max(1, workers))
    clip, captions = _captions(found, trained)
    probes, labels = _labels(found, trained)
    ssl_rows = rows // 4 if rows >= 8 and trained >= 32 else 0
    reasons = [
        ("size", f"{size_text(shape)} px, {sizes}"),
        ("rows", f"{rows} images a step, for {machine}{reading}"),
        ("held out", _held_out(found)),
        ("captions", captions),
        ("labels", labels),
    ]
    if not ssl_rows:
        reasons.append(("images", f"{trained} are too few for self-distillation: reconstruction alone"))
    if not machine.perceptual:
        reasons.append(("perceptual", "left out, as its network is missing: pip install 'vtp-core[offline]'"))
    seen = found.read - len(found.bad)
    fraction = len(found.bad) / found.read
    return Choice(
        gpu=gpu,
        size=shape,
        patch=patch,
        rows=rows,
        ssl_rows=ssl_rows,
        steps=5000 if gpu else 300,
        workers=workers,
        bfloat16=machine.bfloat16,
        clip=clip,
        perceptual=machine.perceptual and side >= 32,
        probes=probes,
        named=bool(found.classes) and not all(name.isdigit() for name in found.classes),
        neighbors=20 if trained >= 1000 else 5,
        max_bad_fraction=None
        if found.whole or not seen or fraction < 0.005
        else round(2 * fraction + 0.005, 2),
        reasons=reasons,
    )


def _held_out(found: Findings) -> str:
    if found.held_out is None:
        return "a folder of its own, to measure on"
    return f"{100 * found.held_out:.3g} % of the images, by hash of their names, to measure on"


def _side(found: Findings, most: int) -> tuple[int, str]:
    """The shorter side of the views, and why."""
    short = sorted(min(side) for side in found.sides)
    # Nine in ten images need not be enlarged.
    least = short[0] if len(short) < 2 else quantiles(short, n=10, method="inclusive")[0]
    size = next((size for size in _SIZES if size <= min(least, most)), _SIZES[-1])
    why = "what suits this machine" if size == most else "what nine in ten images have"
    return size, f"{why} (shorter sides: {short[0]} to {short[-1]} px)"


def _shape(found: Findings, side: int, multiple: int) -> Size:
    """Height and width where nearly all images have the same proportions; else a square."""
    ratios = sorted(width / height for width, height in found.sides)
    ratio = ratios[len(ratios) // 2]
    like = sum(_LIKE > other / ratio > 1 / _LIKE for other in ratios)
    longer = round(side * max(ratio, 1 / ratio) / multiple) * multiple
    if like < 0.9 * len(ratios) or not 1.2 * side <= longer <= 2 * side:
        return side
    return (side, longer) if ratio > 1 else (longer, side)


def _rows(found: Findings, machine: Machine, trained: int, readers: int) -> tuple[int, str]:
    """Images of a step, and a remark."""
    rows = 64 if machine.cores >= 8 else 32
    if machine.gpu_gib:
        room = (_FILLED * machine.gpu_gib - _FIXED_GIB) / _ROW_GIB
        rows = next((rows for rows in (256, 128, 64, 32) if rows <= room), 16)
    while rows > trained and rows > 1:
        rows //= 2
    wanted = rows
    while rows > 8 and rows * found.seconds / readers > _SLOW:
        rows //= 2
    slow = f"; reading one takes {found.seconds:.2f} s, so smaller copies would allow {wanted}"
    return rows, slow if rows < wanted else ""


def _captions(found: Findings, trained: int) -> tuple[bool, str]:
    captioned = found.captions.total()
    if not captioned:
        return False, "none, so no text is learned"
    distinct, all_read = len(found.captions), captioned + len(found.uncaptioned)
    if not found.captioned:
        return False, f"{captioned} of {all_read} images have one, too few to learn text"
    if 2 * distinct < captioned:
        return (
            False,
            f"only {distinct} of {captioned} differ, too few to tell images apart: no text is learned",
        )
    if trained < 64:
        return False, f"{trained} images are too few to learn text"
    return True, f"{distinct} of {captioned} differ: images and captions are contrasted"


def _labels(found: Findings, trained: int) -> tuple[bool, str]:
    if not found.labels:
        return False, "none, so nothing is classified"
    classes = len(found.labels)
    if classes < 2:
        return False, "one class, so nothing is classified"
    if trained < 4 * classes:
        return False, f"{classes} classes of too few images each, so nothing is classified"
    return True, f"{classes} classes, on which probes measure the latents"
