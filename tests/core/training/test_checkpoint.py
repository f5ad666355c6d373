"""Checkpoints on one process: whole or not at all, damage is named, earlier ones serve."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from tests.pickled_code import PickledCode
from vtp_core.errors import CheckpointError
from vtp_core.plugins import Plugins
from vtp_core.run.setup.recipe_change import changed_keys, check_recipe
from vtp_core.training.saving.checkpoint import find_latest, load, load_available, save, verify
from vtp_core.training.saving.manifest import read_manifest

RECIPE = {
    "run": {"steps": 10, "log_every": 1},
    "optimizer": {"use": "adamw", "lr": 1e-3, "betas": [0.9, 0.99]},
}


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "tokenizer.encoder.weight": torch.nn.Parameter(torch.randn(33, 17, generator=generator)),
        "optimizer.encoder.weight.step": torch.tensor(float(seed)),
        "ema.tokenizer.encoder.weight": torch.randn(5, generator=generator, dtype=torch.float64),
        "tokenizer.bottleneck.count": torch.tensor([seed], dtype=torch.int64),
        "tokenizer.decoder.weight": torch.randn(4, 3, generator=generator).bfloat16(),
    }


def write(folder: Path, step: int, **changes):
    return save(folder, step, changes.pop("state", state(step)), recipe=RECIPE, **changes)


def assert_equal(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_round_trip_to_the_bit(tmp_path):
    saved = write(tmp_path, 7, extra={"skipped": 2})
    assert saved.path.name == "step-00000007" and saved.nonfinite is None
    assert (tmp_path / "latest").read_text() == "step-00000007\n"
    target = state(1)
    load(find_latest(tmp_path).path, target)
    assert_equal(target, state(7))
    manifest = verify(saved.path)
    assert (manifest.step, manifest.world_size, manifest.extra) == (7, 1, {"skipped": 2})
    assert set(manifest.files) == {path.name for path in saved.path.iterdir()} - {"manifest.json"}
    assert json.loads((saved.path / "manifest.json").read_text())["finite"] is True
    assert not list(tmp_path.glob("*.tmp"))


def test_run_folder_serves_as_well_as_its_checkpoints_folder(tmp_path):
    write(tmp_path / "checkpoints", 3)
    found = find_latest(tmp_path).path
    assert found == find_latest(tmp_path / "checkpoints").path == find_latest(found).path
    flip(found / "__0_0.distcp")
    with pytest.raises(CheckpointError, match="is damaged"):
        find_latest(found)


def test_keeps_the_newest_and_the_last_good_one(tmp_path):
    for step in (1, 2, 3, 4):
        write(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000003", "step-00000004"]
    bad = state(5)
    bad["ema.tokenizer.encoder.weight"][2] = torch.nan
    for step in (5, 6, 7):
        assert write(tmp_path, step, keep=2, state=bad).nonfinite == "ema.tokenizer.encoder.weight"
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [
        "step-00000004", "step-00000006", "step-00000007",
    ]  # fmt: skip
    assert (tmp_path / "latest").read_text() == "step-00000004\n"
    assert find_latest(tmp_path).path.name == "step-00000004"
    with pytest.raises(CheckpointError, match=r"step-00000007: holds values that are not finite \(ema\.tok"):
        verify(tmp_path / "step-00000007")


def test_a_link_to_a_checkpoint_elsewhere_is_removed_and_its_target_stays(tmp_path, caplog):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for step in (1, 2):
        path = write(run, step).path
        path.rename(elsewhere / path.name)
        path.symlink_to(elsewhere / path.name)
    (run / "step-00000009.tmp").symlink_to(elsewhere)
    assert find_latest(run).manifest.step == 2
    with caplog.at_level(logging.WARNING, "vtp_core"):
        write(run, 3, keep=1)
    assert sorted(path.name for path in run.iterdir()) == ["latest", "step-00000003"]
    assert len(list(elsewhere.iterdir())) == 2 and "could not be removed" not in caplog.text


def test_a_checkpoint_that_can_not_be_removed_is_a_warning(tmp_path, monkeypatch, caplog):
    write(tmp_path, 1)

    def rmtree(path, ignore_errors=False):
        if not ignore_errors:
            raise PermissionError("not yours")

    monkeypatch.setattr("shutil.rmtree", rmtree)
    assert write(tmp_path, 2, keep=1).step == 2
    assert "step-00000001: could not be removed (not yours)" in caplog.text


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def edit(folder: Path, **changes) -> None:
    """Changes keys of a manifest and gives it the hash that fits, as someone who means harm would."""
    manifest = dataclasses.replace(read_manifest(folder), **changes)
    manifest.write(folder)


DAMAGES = {
    "flipped": (lambda folder: flip(folder / "__0_0.distcp"), r"__0_0\.distcp is damaged"),
    "cut": (lambda folder: os.truncate(folder / "__0_0.distcp", 100), r"__0_0\.distcp has 100 bytes"),
    "no shard": (lambda folder: (folder / "__0_0.distcp").unlink(), r"__0_0\.distcp is missing"),
    "no metadata": (lambda folder: (folder / ".metadata").unlink(), r"\.metadata is missing"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "not completely written"),
    "cut manifest": (lambda folder: os.truncate(folder / "manifest.json", 40), "can't be read"),
    "newer format": (
        lambda folder: (folder / "manifest.json").write_text('{"format_version": 99}'),
        "checkpoint format 99, this vtp-core reads 2",
    ),
    "edited": (
        lambda folder: (folder / "manifest.json").write_text(
            (folder / "manifest.json").read_text().replace('"step": 2', '"step": 3').replace('p": 1', 'p": 3')
        ),
        "its hash differs from what it says",
    ),
    "extra of another type": (
        lambda folder: (folder / "manifest.json").write_text(
            json.dumps({**json.loads((folder / "manifest.json").read_text()), "extra": [1]})
        ),
        "can't be read",
    ),
    "no hash": (lambda folder: edit(folder, files={".metadata": {"size": 1}}), "can't be read"),
    "no step": (lambda folder: edit(folder, step=-1), "step is -1"),
    "foreign path": (
        lambda folder: edit(
            folder, files={**read_manifest(folder).files, "../__0_0.distcp": {"size": 1, "sha256": "0"}}
        ),
        "is missing",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_an_earlier_one_is_used(tmp_path, caplog, damage):
    hurt, message = DAMAGES[damage]
    write(tmp_path, 1)
    hurt(write(tmp_path, 2).path)
    with caplog.at_level(logging.WARNING):
        assert find_latest(tmp_path).path.name == "step-00000001"
    (warning,) = [record.message for record in caplog.records if record.name.startswith("vtp_core")]
    with pytest.raises(CheckpointError, match=message):
        verify(tmp_path / "step-00000002")
    assert "step-00000002" in warning and "using step-00000001 instead" in warning
    hurt(tmp_path / "step-00000001")
    with pytest.raises(CheckpointError, match="no usable checkpoint") as caught:
        find_latest(tmp_path)
    assert caught.value.exit_code == 5


def test_no_checkpoint_at_all(tmp_path):
    with pytest.raises(CheckpointError, match=r"no usable checkpoint$"):
        find_latest(tmp_path)


def test_names_and_shapes_that_differ_are_named(tmp_path):
    path = write(tmp_path, 1).path
    target = state(2)
    target["objectives.dino.head.weight"] = torch.zeros(2)
    del target["tokenizer.bottleneck.count"]
    with pytest.raises(CheckpointError, match=r"lacks objectives\.dino.* and has, unknown.* tokenizer\.bott"):
        load(path, target)
    assert torch.equal(target["tokenizer.encoder.weight"], state(2)["tokenizer.encoder.weight"])
    loaded, missing, unexpected = load_available(path, target)
    assert missing == ("objectives.dino.head.weight",) and unexpected == ("tokenizer.bottleneck.count",)
    assert set(loaded) == set(state()) - {"tokenizer.bottleneck.count"}
    assert all(torch.equal(target[name], state(1)[name]) for name in loaded)
    with pytest.raises(
        CheckpointError, match=r"encoder\.weight has shape \(33, 17\), this recipe's \(17, 33\)"
    ):
        load_available(path, {"tokenizer.encoder.weight": torch.zeros(17, 33)})


def test_saving_a_step_again_replaces_it(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 1, state=state(9))
    target = state()
    load(find_latest(tmp_path).path, target)
    assert_equal(target, state(9))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001"]


def test_a_process_killed_between_its_two_renames_loses_nothing(tmp_path):
    path = write(tmp_path, 1).path
    path.rename(path.with_name(path.name + ".old"))
    assert find_latest(tmp_path).path.name == "step-00000001.old"


def test_metadata_can_not_run_code(tmp_path):
    path = write(tmp_path, 1).path
    proof = tmp_path / "ran"

    for payload in (
        pickle.dumps(PickledCode(proof)),
        b"ctorch\nos.mkdir\n(V" + str(proof).encode() + b"\ntR.",
    ):
        (path / ".metadata").write_bytes(payload)
        with pytest.raises(CheckpointError, match=r"\.metadata names .*mkdir, which no checkpoint needs"):
            load(path, state())
    assert not proof.exists()


def test_too_little_space_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    write(tmp_path, 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(CheckpointError, match=r"step-00000002: needs .* GiB are free"):
        write(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001"]


CHILD = """
    import resource, sys, torch
    from pathlib import Path
    from vtp_core.errors import CheckpointError
    from vtp_core.training.saving.checkpoint import save
    torch.set_num_threads(1)
    folder, mode = Path(sys.argv[1]), sys.argv[2]
    big = {"w": torch.ones(16_000_000)}
    save(folder, 1, {"w": torch.ones(3)}, recipe={})
    if mode == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        try:
            save(folder, 2, big, recipe={})
        except CheckpointError as error:
            print(error, flush=True)
    else:
        print("ready", flush=True)
        for step in range(2, 10_000):
            save(folder, step, big, recipe={}, keep=2)
"""


def child(folder: Path, mode: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(CHILD), str(folder), mode],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_a_full_disk_leaves_earlier_ones_intact(tmp_path):
    output, _ = child(tmp_path, "full").communicate(timeout=120)
    assert "step-00000002: could not be written" in output and "earlier ones are intact" in output
    assert len(output.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001"]
    assert find_latest(tmp_path).path.name == "step-00000001"


@pytest.mark.slow
def test_kill_9_during_a_save_leaves_a_usable_checkpoint(tmp_path):
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        process = child(folder, "loop")
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 60
        while not list(folder.glob("*.tmp")) or len(list(folder.glob("step-????????"))) < 2:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(0.03 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        process.stdout.close()
        found = find_latest(folder).path
        target = {"w": torch.zeros(16_000_000 if read_manifest(found).step > 1 else 3)}
        load(found, target)
        assert (target["w"] == 1).all()
        save(folder, 20_000, {"w": torch.ones(2)}, recipe={}, keep=1)
        assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-00020000"]


def test_a_changed_recipe_is_refused_with_its_difference(tmp_path):
    path = write(tmp_path, 1).path
    manifest = read_manifest(path)
    same = json.loads(json.dumps(RECIPE))
    assert check_recipe(path, manifest, same, Plugins()) == []
    free = {
        **same,
        "run": {"steps": 10, "log_every": 5},
        "evaluators": {"psnr": {"use": "x"}},
        "callbacks": {},
    }
    assert check_recipe(path, manifest, free, Plugins()) == []
    other = {
        "run": {"steps": 20, "log_every": 1},
        "optimizer": {"use": "adamw", "lr": 2e-3, "betas": [0.9, 0.99]},
        "new": {"a": 1},
    }
    with pytest.raises(
        CheckpointError, match=r"new\.a: \(absent\) -> 1; optimizer\.lr: 0\.001 -> 0\.002; run\.st"
    ):
        check_recipe(path, manifest, other, Plugins())
    with pytest.raises(CheckpointError, match="repeat the -s values of the first start"):
        check_recipe(path, manifest, other, Plugins())
    assert len(check_recipe(path, manifest, other, Plugins(), allow_change=True)) == 3


def test_tuples_and_lists_of_a_recipe_are_alike(tmp_path):
    path = save(tmp_path, 1, state(), recipe={"a": {"betas": (0.9, 0.99)}}).path
    assert check_recipe(path, read_manifest(path), {"a": {"betas": (0.9, 0.99)}}, Plugins()) == []
    assert changed_keys({"a": {}}, {"a": {"b": 1}}) == ["a: {} -> (absent)", "a.b: (absent) -> 1"]
    # A key that came later and has no value changes nothing.
    assert changed_keys({}, {"a": None}) == changed_keys({"a": None}, {}) == []
    assert changed_keys({"a": 1}, {"a": None}) == ["a: 1 -> null"]
