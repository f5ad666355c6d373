"""Shards that are cut, compressed, empty or no archives: named, counted, never measured as a whole set."""

from __future__ import annotations

import gzip
import json
import logging
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.core.data.making import samples, write_tar
from tests.core.run.tiny_run import RECIPE, metrics, one_line, vtp
from vtp_core.cli.main import main
from vtp_core.data.opening import Sources, open_source
from vtp_core.errors import DataError, UsageError
from vtp_core.evaluation.opening import open_set
from vtp_core.plugins import load_plugins
from vtp_core.recipe.reading.component import read_component
from vtp_core.recipe.tables.data import DecodeLimits

EACH = 6
PLUGINS = load_plugins()


def shard(path: Path, start: int = 0) -> bytes:
    return write_tar(path, samples(EACH, start)).read_bytes()


def table(folder: Path, **more: object):
    return read_component("source", {"use": "webdataset", "urls": f"{folder}/*.tar", **more}, PLUGINS)


def without_end(data: bytes) -> bytes:
    return data[: -(-len(data.rstrip(b"\0")) // 512) * 512]


def renamed(data: bytes) -> bytes:
    """Members of other extensions; the sum of a header's bytes, which it holds, is the same."""
    return data.replace(b".png", b".pgn").replace(b".txt", b".xtt").replace(b".cls", b".scl")


DAMAGE = {
    "gzip": (gzip.compress, "compressed, and samples are read by position: decompress it (gunzip)", 0),
    "zstd": (lambda data: b"\x28\xb5\x2f\xfd" + data, "decompress it (unzstd)", 0),
    "cut in a sample": (lambda data: data[: len(data) // 2], "cut or damaged after 3 samples", 3),
    "cut before its end": (without_end, "cut or damaged after 6 samples", 6),
    "an empty file": (lambda data: b"", "the file is empty", 0),
    "an empty archive": (lambda data: bytes(10240), "no sample with a member of", 0),
    "no archive": (lambda data: b"<html>" * 1000, "not a tar file", 0),
    "other members": (renamed, "no sample with a member of", 0),
}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Nine whole shards, and ``9.tar`` to damage."""
    for number in range(10):
        shard(tmp_path / f"{number}.tar", EACH * number)
    return tmp_path


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_shards_are_lost_parts(whole: Path, kind: str) -> None:
    damage, why, found = DAMAGE[kind]
    path = whole / "9.tar"
    path.write_bytes(damage(path.read_bytes()))
    source = open_source(table(whole), DecodeLimits(), PLUGINS)
    lost = source.lost()
    (part,) = lost.parts
    assert part.startswith(f"{path}: ") and why in part
    assert len(source) == 9 * EACH + found
    missing = max(1, EACH - found)  # what it lacks of the others' mean, at least a sample
    assert lost.fraction == missing / (9 * EACH + found + missing)
    with pytest.raises(DataError, match=r"1 of its parts can't be read: .*9\.tar.*allow_incomplete"):
        open_set(table(whole), Sources(PLUGINS))
    facts = str(open_set(table(whole), Sources(PLUGINS), allow_incomplete=True).facts(len(source)))
    assert facts.endswith(
        f"PARTIAL {len(source)} of {len(source)} that can be read (1 parts of the set can't)"
    )


def test_a_whole_set_has_lost_nothing(whole: Path) -> None:
    data = open_set(table(whole), Sources(PLUGINS))
    assert not data.source.lost() and str(data.facts(60)).endswith("all 60")


def test_a_part_of_a_source_has_lost_what_the_whole_has(whole: Path) -> None:
    (whole / "9.tar").write_bytes(b"")
    with pytest.raises(DataError, match="can't be read"):
        open_set(table(whole, part=[0.0, 0.5]), Sources(PLUGINS))


def test_missing_shards_are_counted_where_they_are_allowed(whole: Path) -> None:
    (whole / "8.tar").unlink()
    (whole / "9.tar").unlink()
    (whole / "9.tar").symlink_to(whole / "not mounted")
    with pytest.raises(DataError, match=r"1 shards are missing: .*9\.tar"):
        open_source(table(whole), DecodeLimits(), PLUGINS)
    urls = f"{whole}/{{0..9}}.tar"
    lost = open_source(table(whole, urls=urls, allow_missing=True), DecodeLimits(), PLUGINS).lost()
    assert lost.fraction == 0 and [part.partition(": ")[2] for part in lost.allowed] == ["missing"] * 2
    with pytest.raises(DataError, match="2 of its parts can't be read"):
        open_set(table(whole, urls=urls, allow_missing=True), Sources(PLUGINS))


@pytest.mark.parametrize("name", ["a.tar.gz", "a.TGZ", "a.tar.zst", "a.tar.xz", "a.tar.bz2"])
def test_compressed_archives_are_refused_by_name(tmp_path: Path, name: str) -> None:
    why = "is compressed, and samples are read by position: decompress it first"
    with pytest.raises(UsageError, match=why):
        table(tmp_path, urls=f"{tmp_path}/{name}")


def test_data_check_refuses_a_compressed_archive_and_a_folder_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"")
    for path in (tmp_path, tmp_path / "a.tar.gz"):
        done = CliRunner().invoke(main, ["data", "check", str(path)])
        assert done.exit_code == 3 and "decompress it first (gunzip)" in done.stderr


def test_data_check_names_lost_parts(whole: Path) -> None:
    (whole / "3.tar").write_bytes(b"")
    done = CliRunner().invoke(main, ["data", "check", str(whole)])
    assert done.exit_code == 3 and f"lost     {whole}/3.tar: the file is empty" in done.stdout
    assert done.stderr.splitlines()[-1] == f"error: {whole}: 1 of its parts can't be read whole"


def recipe(folder: Path) -> str:
    return RECIPE.replace('use = "samples"\nsplit = "val"', f'use = "webdataset"\nurls = "{folder}/*.tar"')


def test_training_stops_above_the_allowed_fraction(tmp_path: Path, whole: Path) -> None:
    (whole / "9.tar").write_bytes(b"")
    done = vtp(tmp_path, recipe=recipe(whole))
    assert done.exit_code == 3
    message = one_line(done)
    assert "an estimated 10.00% of its samples, more than data.max_bad_fraction = 0.01 allows" in message
    assert "9.tar: the file is empty" in message and not (tmp_path / "run/metrics.jsonl").exists()


def test_training_below_it_names_and_counts_lost_parts(
    tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (whole / "9.tar").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "vtp_core"):
        done = vtp(tmp_path, "run.steps=2", "data.max_bad_fraction=0.1", recipe=recipe(whole))
    assert done.exit_code == 0, done.output
    line = f"1 parts can't be read, an estimated 10.00% of the samples: {whole}/9.tar: the file is empty"
    assert f"source default: {line}" in caplog.messages
    assert [row["data/lost_parts"] for row in metrics(tmp_path)] == [1, 1]
    assert f"training source default: {line}" in (tmp_path / "run/report.html").read_text().replace(
        "&#39;", "'"
    )
    config = json.loads((tmp_path / "run/tokenizer/config.json").read_text())
    assert (
        "PARTIAL" in config["latents_stats_protocol"]
        and "parts of the set can't" in config["latents_stats_protocol"]
    )


def test_a_resume_on_other_samples_says_so(
    tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sets = ("run.steps=3", "evaluate.statistics_samples=0", "run.checkpoint_every=1")
    stop = 'callbacks.stop={use = "faulty.signal", at = 1, first = true}'
    assert vtp(tmp_path, *sets, stop, recipe=recipe(whole)).exit_code == 75
    (whole / "8.tar").unlink()
    with caplog.at_level(logging.WARNING, "vtp_core"):
        assert vtp(tmp_path, *sets, stop, recipe=recipe(whole), resume=True).exit_code == 0
    said = "source default: 54 samples, 60 at the checkpoint; from here on their order is another one"
    assert said in caplog.messages


def test_an_incomplete_held_out_set_ends_a_run_before_its_first_step(tmp_path: Path, whole: Path) -> None:
    (whole / "9.tar").write_bytes(gzip.compress((whole / "9.tar").read_bytes()))
    sets = (
        f"evaluate.source={{ use = 'webdataset', urls = '{whole}/{{8..9}}.tar' }}",
        "evaluators={ reconstruction = { use = 'reconstruction' } }",
        "run.steps=1",
    )
    done = vtp(tmp_path, *sets)
    assert done.exit_code == 3 and "1 of its parts can't be read" in one_line(done)
    assert not (tmp_path / "run/metrics.jsonl").exists()
    forced = vtp(tmp_path, *sets, "evaluate.allow_incomplete=true")
    assert forced.exit_code == 0, forced.output
    protocol = json.loads((tmp_path / "run/eval.json").read_text())["psnr"]["protocol"]
    assert "PARTIAL 4 of 6 that can be read (1 parts of the set can't)" in protocol


def test_scratch_files_of_sidecars_are_swept(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(whole / "cache"))
    left, other = whole / ".3.tar.vtp-index.0123abcd.tmp", whole / ".notes.0123abcd.tmp"
    for path in (left, other):
        path.write_bytes(b"x")
        os.utime(path, (0, 0))
    open_source(table(whole), DecodeLimits(), PLUGINS)
    assert not left.exists() and other.exists()
