"""The report page: complete, offline, escaped, small; it names what is missing."""

from __future__ import annotations

import functools
import html.parser
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.core.report.conftest import BAD, HOSTILE
from tests.core.run.tiny_run import FAULTY
from vtp_core.errors import UsageError
from vtp_core.plugins import load_plugins
from vtp_core.report import page as page_module
from vtp_core.report import verdict
from vtp_core.report.pictures import embed
from vtp_core.run.records import RunFolder
from vtp_core.run.report import build_report

pytestmark = pytest.mark.slow


class Reader(html.parser.HTMLParser):
    """Checks that tags are closed, and collects text, tags and addresses."""

    VOID = {"meta", "img", "line", "path", "br"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.alt_missing = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        self.addresses += [v or "" for k, v in attrs if k in ("href", "src", "srcset", "action", "data")]
        drawn = tag == "svg" and "aria-hidden" not in values
        self.alt_missing += (drawn or values.get("role") == "img") and not values.get("aria-label")
        self.ids += [values["id"] or ""] if "id" in values else []
        self.targets += [v or "" for k, v in attrs if k == "popovertarget"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text())
    assert reader.open == []
    return reader


def edit(file: Path, **values: object) -> None:
    """Changes entries of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def append(file: Path, *lines: dict[str, object]) -> None:
    with file.open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)


def test_everything_is_on_the_page(run: Path) -> None:
    path = build_report(run)
    assert path == run / "report.html"
    page = read(path)
    psnr = json.loads((run / "eval.json").read_text())["psnr"]
    text = page.text.replace("\n", "").replace("\u202f", " ")
    for expected in (
        "tiny", f"{psnr['value']:.2f} dB", f"{psnr['baseline']:.2f} dB", "mean colour", "Loss of l1",
        "Learning rate", "complete", "12 of 12 planned", "A visual tokenizer for images of 16 × 16 px with "
        "latents of 4 × 2 × 2 (48 times fewer numbers) and ",
        "trained on 96 samples of image_folder data in ",
    ):  # fmt: skip
        assert expected in text, expected
    assert "svg" in page.tags and page.alt_missing == 0
    assert path.stat().st_size < 1_000_000


def test_each_picture_is_stored_once_and_shown(run: Path) -> None:
    page = read(build_report(run))
    pictures = [address for address in page.addresses if address.startswith("data:image/")]
    record = json.loads((run / "samples" / "samples.json").read_text())
    shown = [entry for query in record["queries"] for entry in query["found"]]
    assert len(record["images"]) == 14 and shown and record["interpolations"]
    # Input, output, error, latent, and what JPEG and the tokenizers that ship make of it.
    columns = len(record["images"][0]["references"])
    assert len(pictures) >= 14 * (4 + columns) and len(page.ids) == len(set(page.ids))
    stored = [name for name in page.ids if re.fullmatch(r"i\d+", name)]
    assert len(stored) == len(pictures) == len(set(pictures))
    # Each is used, and each thing to enlarge exists.
    assert {f"#{name}" for name in stored} <= set(page.addresses)
    assert set(page.targets) <= set(page.ids)
    reconstructions = (run / "report.html").read_text().split('id="numbers"')[0]
    assert reconstructions.count('aria-label="input of') == 2 * 8  # small and large


def test_cards_hold_what_their_evaluators_measure(run: Path) -> None:
    entry = json.loads((run / "eval.json").read_text())["psnr"]
    assert entry["aspect"] == "fidelity"
    cards = {card.title: card for card in verdict.cards(RunFolder(run).read())}
    assert list(cards) == ["Reconstructs", "Understands", "Generatable"]
    shown = [score.metric for score in cards["Reconstructs"].scores]
    assert shown == ["psnr", "ssim", "color_shift", "texture"]
    assert not cards["Understands"].scores
    assert read(build_report(run)).text.count("Not measured.") == 2
    # Files of earlier versions don't say what an entry is about.
    edit(run / "eval.json", psnr={**entry, "aspect": None})
    cards = {card.title: card for card in verdict.cards(RunFolder(run).read())}
    assert [score.metric for score in cards["Other numbers"].scores] == ["psnr"]
    text = read(build_report(run)).text
    assert "Not measured." not in text and "see the other numbers" in text


def test_other_tokenizers_and_jpeg_stand_beside_the_run(run: Path) -> None:
    text = read(build_report(run)).text.replace("\n", " ")
    record = json.loads((run / "samples" / "samples.json").read_text())
    shipped = {component.name for component in load_plugins().components("tokenizer")}
    titles = {column["title"] for column in record["references"]}
    # A latent of 32 bytes is less than any JPEG file.
    assert titles == shipped and record["bytes"] == 32
    for column in record["references"]:
        assert f"{column['title']}{column['psnr']:.2f} dB" in text
    images = [{**item, "group": "worst" if i > 9 else "spread"} for i, item in enumerate(record["images"])]
    edit(run / "samples" / "samples.json", images=images)
    text = read(build_report(run)).text.split("The worst of these images")[1]
    for item in images[10:]:
        for column in item["references"]:
            assert f"{column['title']}{column['psnr']:.2f} dB" in text


def test_bad_samples_of_all_ranks_are_counted_once(run: Path) -> None:
    lines = [
        [json.loads(line) for line in (run / f"quarantine-{rank}.jsonl").read_text().splitlines()]
        for rank in (0, 1)
    ]
    found = [{(line["source"], line["index"]) for line in part} for part in lines]
    # Both ranks met bad samples, one of them the same one in another epoch: the sum would be too large.
    assert found[0] and found[1] and found[0] & found[1]
    assert len(found[0] | found[1]) == BAD
    reasons = {line["reason"] for part in lines for line in part}
    text = read(build_report(run)).text
    assert f"{BAD} bad samples were replaced; see Data" in text
    assert "none was replaced" not in text and all(reason in text for reason in reasons)


def test_the_command_names_the_loose_plugins(run: Path) -> None:
    assert json.loads((run / "environment.json").read_text())["loose_plugins"] == [str(FAULTY)]
    assert f"vtp run resolved.toml --plugin {FAULTY}\n" in read(build_report(run)).text
    edit(run / "environment.json", loose_plugins=["/with space/a.py", HOSTILE, 3])
    text = read(build_report(run)).text
    assert "vtp run resolved.toml --plugin '/with space/a.py' --plugin " in text
    assert shlex.quote(HOSTILE) in text


def test_a_run_without_loose_plugins_has_none_in_its_command(run: Path) -> None:
    edit(run / "environment.json", loose_plugins=[])
    assert "vtp run resolved.toml\n" in read(build_report(run)).text


def test_verdicts_are_shown_and_bad_ones_are_alarms(run: Path) -> None:
    entry = json.loads((run / "eval.json").read_text())["psnr"]
    low, high = entry["interval"]
    assert f"{low:.2f} to {high:.2f}" in read(build_report(run)).text
    also = {f"channel {number}": 0.25 for number in range(20)}
    chance = {"value": 0.3, "protocol": "q", "baseline": 0.1, "baseline_name": "chance", "also": also}
    ssim = {**entry, "title": "SSIM", "verdict": "within noise"}
    edit(run / "eval.json", psnr={**entry, "verdict": "worse"}, ssim=ssim, zero_shot=chance)
    text = read(build_report(run)).text
    assert "channel 15 0.25, and 4 more in eval.json" in text and "channel 16" not in text
    assert "3.0 x chance" in text and "within noise" in text
    assert "PSNR is worse than a trivial answer (mean colour)" in text
    assert "SSIM can't be told from a trivial answer (mean colour)" in text
    assert "zero shot" not in text.split("Numbers")[0]  # a file of an earlier version tells no error


@pytest.mark.parametrize("value", [3, "3", [1], [1, "x"], [[1], 2], {"low": 1}])
def test_intervals_and_verdicts_that_make_no_sense_are_left_aside(run: Path, value: object) -> None:
    entry = {"value": 12.5, "protocol": "p", "interval": value, "verdict": value, "baselines": value}
    (run / "eval.json").write_text(json.dumps({"fd": entry}))
    assert "12.5" in read(build_report(run)).text


def test_all_text_is_escaped(run: Path) -> None:
    edit(run / "environment.json", device=HOSTILE, failed_plugins=[HOSTILE])
    entry = json.loads((run / "eval.json").read_text())["psnr"]
    edit(run / "eval.json", **{HOSTILE: {**entry, "protocol": HOSTILE, "unit": HOSTILE}})
    append(run / "metrics.jsonl", *({"step": step, f"loss/{HOSTILE}/x": 2.0} for step in (13, 14)))
    page = read(build_report(run))
    assert "script" not in page.tags and page.alt_missing == 0
    assert page.text.count(HOSTILE) >= 20  # captions of the held-out images, and the above


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
    assert "tiny" in read(build_report(run)).text


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
    assert "trivial answer (noise)" not in page.text  # no error, so no verdict


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
        item.update(input="../../secret.png", output="/etc/passwd", error="", latent="..", references=[])
    for query in (*record["queries"], *record["neighbours"]):
        for entry in (query["asked"], *query["found"]):
            entry["input"] = "../../secret.png"
    for line in record["interpolations"]:
        line["frames"] = ["../../secret.png", "../samples/../../secret.png"]
    file.write_text(json.dumps(record))
    page = read(build_report(run))
    assert not [address for address in page.addresses if address.startswith("data:image")]


def test_many_large_images_stay_under_the_limit(run: Path) -> None:
    random = np.random.default_rng(0)
    for path in (run / "samples").glob("*.png"):
        Image.fromarray(random.integers(0, 256, (260, 260, 3), dtype=np.uint8)).save(path, compress_level=0)
    path = build_report(run)
    assert 1_000_000 < path.stat().st_size < 5_000_000
    assert "Pictures are stored here at quality" in read(path).text


def test_pictures_without_room_are_counted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "embed", functools.partial(embed, budget=20_000))
    text = read(build_report(run)).text
    assert "pictures had no room on this page" in text and "at quality 75 and at most 160 px" in text


def test_alarms_of_a_critic_are_shown(run: Path) -> None:
    assert "had an alarm" not in read(build_report(run)).text
    lines = (
        {"step": step, "report/gan.critic/alarm": alarm} for step, alarm in ((21, 0.0), (22, 1), (23, 1))
    )
    append(run / "metrics.jsonl", *lines)
    assert "gan.critic had an alarm in 2 logged steps, first step 22" in read(build_report(run)).text


def test_losses_that_are_not_finite_raise_an_alarm(run: Path) -> None:
    append(run / "metrics.jsonl", {"step": 21, "loss/l1/l1": None, "skipped": 1.0})
    text = read(build_report(run)).text
    assert "1 logged steps have a loss that is not finite, first step 21" in text
    assert "1 logged steps were skipped" in text
