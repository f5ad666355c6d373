"""The page as a browser draws it, and its colors."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vtp_core.report
from vtp_core.run.report import build_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
STYLE = Path(vtp_core.report.__file__).parent / "templates" / "style.css"
TEXT = ("ink", "soft", "accent", "good", "bad", "noise")
HEIGHT = 2200


def screen(page: Path, folder: Path, width: int, dark: bool) -> np.ndarray:
    """(HEIGHT, width, 3) uint8: what a browser of that width shows first."""
    assert BROWSER is not None
    file = folder / f"report-{width}-{'dark' if dark else 'light'}.png"
    subprocess.run(
        [
            BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{HEIGHT}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--screenshot={file}",
            page.as_uri(),
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium here, which makes the screenshots")
@pytest.mark.parametrize("width", [1400, 420])
def test_screens_are_drawn_in_both_schemes_and_nothing_is_cut(run: Path, tmp_path: Path, width: int) -> None:
    page = build_report(run)
    colors = palettes()
    for dark, palette in zip((False, True), colors, strict=True):
        pixels = screen(page, tmp_path, width, dark)
        assert pixels.shape == (HEIGHT, width, 3)
        background = np.array(rgb(palette["page"]))
        # Content that is too wide for the window would reach into the right margin.
        assert (pixels[:, -12:] == background).all()
        drawn = (np.abs(pixels.astype(int) - background).max(2) > 40).mean()
        assert 0.03 < drawn < 0.9
        # The inputs of the strip are noise of many colors: the pictures are drawn.
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000


def rgb(color: str) -> tuple[int, int, int]:
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))  # type: ignore[return-value]


def palettes() -> list[dict[str, str]]:
    """The colors of the light and of the dark scheme."""
    roots = re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.S)
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", root)) for root in roots]
    assert len(found) == 2 and all(set(TEXT) <= set(palette) for palette in found)
    return found


def luminance(color: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [value / 255 for value in rgb(color)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark"])
def test_text_and_lines_have_enough_contrast(palette: dict[str, str]) -> None:
    for ground in ("page", "panel"):
        for name in TEXT:
            assert contrast(palette[name], palette[ground]) >= 4.5, (name, ground)  # WCAG 1.4.3
    for name in [name for name in palette if re.fullmatch(r"c\d", name)] + ["bar"]:
        assert contrast(palette[name], palette["page"]) >= 3, name  # WCAG 1.4.11
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
