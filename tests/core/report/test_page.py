"""The report page: complete, offline, escaped, small; it names what is missing."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.core.evaluation_sets import ArraySet, ArraySource, drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.errors import UsageError
from vtp_core.report import build_report
from vtp_core.report.gallery import write_gallery

HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}"
RECIPE = f"""name = "trial"
[run]
steps = 20
[data.source]
use = "samples"
urls = '''{HOSTILE}'''
[views.image]
rows = 8
size = 16
augment = "crop"
"""


class Reader(html.parser.HTMLParser):
    """Checks that tags are closed, and collects text, tags and addresses."""

    VOID = {"meta", "img", "line", "path", "br"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""
        self.alt_missing = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        self.addresses += [v or "" for k, v in attrs if k in ("href", "src", "srcset", "action", "data")]
        self.alt_missing += tag == "img" and not values.get("alt")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text())
    assert reader.open == []
    return reader


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "trial"
    folder.mkdir()
    (folder / "resolved.toml").write_text(RECIPE)
    (folder / "environment.json").write_text(json.dumps({"device": HOSTILE, "packages": {"torch": "2"}}))
    rows = [
        {
            "step": s,
            "samples": 8 * s,
            "loss/l1/l1": 1 / s,
            f"loss/{HOSTILE}/x": 2.0,
            "lr": 1e-3,
            "rows_per_s": 8.0,
        }
        for s in range(1, 21)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = {
        "value": 12.5,
        "protocol": f"p-v1 {HOSTILE}",
        "baseline": 13.0,
        "baseline_name": "mean colour",
        "unit": "dB",
    }
    chance = {"value": 0.3, "protocol": "q", "baseline": 0.1, "baseline_name": "chance", "also": {"x": 0.2}}
    (folder / "eval.json").write_text(json.dumps({"psnr": entry, "zero_shot": chance}))
    drawn = drawn_set("val", 20, 0).source
    assert isinstance(drawn, ArraySource)
    source = ArraySource(images=drawn.images, texts=(HOSTILE,) * 20)
    write_gallery(toy_tokenizer(), ArraySet(name="val", source=source), folder / "samples")
    return folder


def test_everything_is_on_the_page(run: Path) -> None:
    path = build_report(run)
    assert path == run / "report.html"
    page = read(path)
    for text in ("trial", "12.50 dB", "13.00 dB", "mean colour", "3.0 x", "Loss of l1", "Learning rate"):
        assert text in page.text, text
    # 8 rows a step at 8 rows a second: a second a step.
    assert "0 min 20 s" in page.text and "160" in page.text
    # Written before metrics had titles: the names are the metrics' own.
    assert "psnr does not beat its baseline (mean colour)" in page.text and "zero shot" in page.text
    assert "svg" in page.tags and page.alt_missing == 0
    pictures = [address for address in page.addresses if address.startswith("data:image/png")]
    assert len(pictures) == 4 * (12 + 4 + 4)
    assert path.stat().st_size < 1_000_000


def test_all_text_is_escaped(run: Path) -> None:
    page = read(build_report(run))
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 20
    assert "49" not in page.text.split("Reproduce")[-1]


def test_nothing_is_fetched(run: Path) -> None:
    page = read(build_report(run))
    assert not {"script", "link", "iframe", "object"} & page.tags
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    text = (run / "report.html").read_text()
    assert "url(" not in text and "@import" not in text


def test_missing_parts_are_named(tmp_path: Path) -> None:
    (tmp_path / "resolved.toml").write_text('name = "bare"\n')
    page = read(build_report(tmp_path, tmp_path / "out" / "page.html"))
    for what in ("no eval.json", "no metrics.jsonl", "no environment.json", "no tokenizer/config.json"):
        assert what in page.text
    assert "not started" in page.text


@pytest.mark.parametrize("name", ["eval.json", "environment.json", "samples/samples.json", "metrics.jsonl"])
@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff\xfe", b'{"images": 3}'])
def test_damaged_parts_do_not_stop_the_page(run: Path, name: str, data: bytes) -> None:
    (run / name).write_bytes(data)
    assert "trial" in read(build_report(run)).text


def test_the_file_says_how_a_metric_is_shown(run: Path) -> None:
    entry = {
        "value": 12.3456, "protocol": "p-v1", "baseline": 20.0, "baseline_name": "noise",
        "title": "Fréchet <i>", "unit": "nats", "higher_is_better": False, "digits": 1, "also": {},
    }  # fmt: skip
    plain = {**entry, "title": "Plain", "unit": "", "digits": None}
    (run / "eval.json").write_text(json.dumps({"fd": entry, "other": plain}))
    page = read(build_report(run))
    for text in ("Fréchet <i>", "12.3 nats", "20.0 nats", "noise", "Plain", "12.35"):
        assert text in page.text, text
    assert "does not beat" not in page.text  # lower is better


@pytest.mark.parametrize("digits", [-1, 10**9, True, 2.5, "3", [1]])
def test_digits_that_make_no_sense_are_left_aside(run: Path, digits: object) -> None:
    entry = {"value": 12.5, "protocol": "p", "title": ["x"], "digits": digits}
    (run / "eval.json").write_text(json.dumps({"fd": entry}))
    assert "12.5" in read(build_report(run)).text


def test_not_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        build_report(tmp_path / "none")
    with pytest.raises(UsageError, match="not a run folder"):
        build_report(tmp_path)


def test_sample_names_lead_nowhere_else(run: Path) -> None:
    secret = run.parent / "secret.png"
    Image.new("RGB", (4, 4), (1, 2, 3)).save(secret)
    file = run / "samples" / "samples.json"
    record = json.loads(file.read_text())
    for item in record["images"]:
        item.update(input="../../secret.png", output="/etc/passwd", error="", latent="..")
    file.write_text(json.dumps(record))
    page = read(build_report(run))
    assert not [address for address in page.addresses if address.startswith("data:image")]


def test_many_large_images_stay_under_the_limit(run: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    for path in (run / "samples").glob("*.png"):
        Image.fromarray(noise).save(path)
    path = build_report(run)
    assert path.stat().st_size < 5_000_000
    assert "had no room on this page" in read(path).text


def test_alarms_of_a_critic_are_told(run: Path) -> None:
    assert "had an alarm" not in read(build_report(run)).text
    with (run / "metrics.jsonl").open("a") as file:
        for step, alarm in ((21, 0.0), (22, 1.0), (23, 1.0)):
            file.write(json.dumps({"step": step, "report/gan.critic/alarm": alarm}) + "\n")
    assert "gan.critic had an alarm in 2 logged steps, first step 22" in read(build_report(run)).text


def test_losses_that_are_not_finite_raise_an_alarm(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 21, "loss/l1/l1": None, "skipped": 1.0}) + "\n")
    text = read(build_report(run)).text
    assert "1 logged steps have a loss that is not finite, first step 21" in text
    assert "1 logged steps were skipped" in text
