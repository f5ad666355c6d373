"""metrics.jsonl: whole lines, strict JSON, and the same file after a resume as without a break."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtp_core.run.metrics import MetricsLog
from vtp_core.run.records import RunFolder

FLOATS = st.floats(allow_nan=True, allow_infinity=True)


def line(step: int) -> dict[str, float]:
    return {"loss/l1/l1": 1 / (step + 3), "lr": 1e-3 * step}


@given(st.dictionaries(st.text(min_size=1).filter(lambda name: name != "step"), FLOATS, max_size=5))
def test_every_number_survives(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("run")
    with MetricsLog(folder / "metrics.jsonl") as log:
        log.write(3, values)
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert record.pop("step") == 3
    assert record == {name: value if value - value == 0 else None for name, value in values.items()}
    assert text.endswith("\n") and text.count("\n") == 1


@given(total=st.integers(1, 8), saved=st.integers(0, 8), died=st.integers(0, 8), cut=st.integers(0, 30))
def test_a_resumed_file_equals_an_uninterrupted_one(tmp_path_factory, total, saved, died, cut):
    saved, died = min(saved, total), min(max(saved, died), total)
    whole, broken = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("broken")
    with MetricsLog(whole / "metrics.jsonl") as log:
        for step in range(1, total + 1):
            log.write(step, line(step))
    with MetricsLog(broken / "metrics.jsonl") as log:
        for step in range(1, died + 1):
            log.write(step, line(step))
    with (broken / "metrics.jsonl").open("ab") as file:  # the write that the kill interrupted
        file.write(json.dumps({"step": died + 1, **line(died + 1)}).encode()[:cut])
    with MetricsLog(broken / "metrics.jsonl", last_step=saved) as log:
        for step in range(saved + 1, total + 1):
            log.write(step, line(step))
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert [record["step"] for record in RunFolder(broken).read_metrics()] == list(range(1, total + 1))


def test_a_new_run_starts_an_empty_file(tmp_path):
    for _ in range(2):
        with MetricsLog(tmp_path / "metrics.jsonl") as log:
            log.write(1, line(1))
    assert len(RunFolder(tmp_path).read_metrics()) == 1


def test_reading_skips_a_half_line_and_a_missing_file(tmp_path):
    assert RunFolder(tmp_path).read_metrics() == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2', encoding="utf-8")
    assert RunFolder(tmp_path).read_metrics() == [{"step": 1}]


def test_resuming_without_a_file_begins_one(tmp_path):
    with MetricsLog(tmp_path / "metrics.jsonl", last_step=5) as log:
        log.write(6, {})
    assert RunFolder(tmp_path).read_metrics() == [{"step": 6}]


@given(
    total=st.integers(2, 8),
    saved=st.integers(1, 8),
    flips=st.sets(st.integers(0, 400), max_size=4),
    mask=st.integers(1, 255),
)
def test_a_resume_loses_no_whole_line_to_a_damaged_one(tmp_path_factory, total, saved, flips, mask):
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    with MetricsLog(path) as log:
        for step in range(1, total + 1):
            log.write(step, line(step))
    data = bytearray(path.read_bytes())
    for place in flips:
        if place < len(data):
            data[place] ^= mask
    path.write_bytes(data)
    before = [record for record in RunFolder(path.parent).read_metrics() if record["step"] <= saved]
    with MetricsLog(path, last_step=saved) as log:
        log.write(saved + 1, {})
    after = RunFolder(path.parent).read_metrics()
    assert after[:-1] == before and after[-1] == {"step": saved + 1}
    assert path.read_bytes().count(b"\n") == len(after) + log.damaged


def test_damaged_lines_are_counted_and_stay_where_they_are(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        '{"step": 1}',
        '{"step": 2, "lr": }',
        '{"step": 3}',
        '{"step": true}',
        '{"step": 5}',
        "x",
        '{"st',
    ]
    path.write_text("\n".join(lines))
    with MetricsLog(path, last_step=4) as log:
        log.write(5, {})
    assert log.damaged == 2
    assert path.read_text().splitlines() == [*lines[:4], '{"step": 5}']


def test_a_line_nested_without_end_is_a_damaged_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("[" * 100_000 + '\n{"step": 1}\n')
    assert RunFolder(tmp_path).read_metrics() == [{"step": 1}]
