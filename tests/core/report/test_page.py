"""The report page: complete, offline, escaped, small; it names what is missing."""

from __future__ import annotations

import html.parser
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.core.report.conftest import BAD, HOSTILE
from tests.core.run.tiny_run import FAULTY
from vtp_core.errors import UsageError
from vtp_core.run.report import build_report


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
    for text in (
        "tiny", f"{psnr['value']:.2f} dB", f"{psnr['baseline']:.2f} dB", "mean colour", "Loss of l1",
        "Learning rate", "complete", "all planned steps done", "12of 12 planned",
    ):  # fmt: skip
        assert text in page.text.replace("\n", ""), text
    assert "samples96" in page.text.replace("\n", "")  # 8 rows a step
    assert "svg" in page.tags and page.alt_missing == 0
    pictures = [address for address in page.addresses if address.startswith("data:image/png")]
    assert len(pictures) == 4 * (12 + 4 + 4)
    assert path.stat().st_size < 1_000_000


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
    chance = {"value": 0.3, "protocol": "q", "baseline": 0.1, "baseline_name": "chance", "also": {"x": 0.2}}
    ssim = {**entry, "title": "SSIM", "verdict": "within noise"}
    edit(run / "eval.json", psnr={**entry, "verdict": "worse"}, ssim=ssim, zero_shot=chance)
    text = read(build_report(run)).text
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
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 20  # captions of the held-out images, and the above
    assert "49" not in page.text.split("Reproduce")[-1].split("--plugin")[0]


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
