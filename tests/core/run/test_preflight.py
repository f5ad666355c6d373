"""What a run warns of before its first step: frozen parts that nothing loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.run.tiny_run import vtp

WARNING = "frozen with random weights"


def test_a_frozen_part_that_nothing_loads_is_warned_of(tmp_path: Path) -> None:
    result = vtp(tmp_path, 'freeze=["encoder", "l1"]', "run.steps=2")
    assert result.exit_code == 0, result.output
    assert f"{WARNING}, as there is no init_from: encoder\n" in result.stderr
    again = vtp(tmp_path, 'freeze=["encoder", "l1"]', "run.steps=4", resume=True, options=("--allow-change",))
    assert again.exit_code == 0, again.output
    assert WARNING not in again.stderr


@pytest.mark.slow
def test_only_what_init_from_leaves_out_is_warned_of(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    assert WARNING not in vtp(first, "run.steps=1").stderr
    freeze = 'freeze=["encoder", "bottleneck"]'
    loaded = vtp(second, freeze, "run.steps=1", f'init_from="{first / "run"}"')
    assert loaded.exit_code == 0, loaded.output
    assert WARNING not in loaded.stderr
    table = f'init_from={{path="{first / "run"}", fresh=["tokenizer.encoder.*norm*"]}}'
    partly = vtp(second, freeze, "run.steps=1", table, f"run.out={second / 'again'}")
    assert partly.exit_code == 0, partly.output
    assert f"{WARNING}, as init_from does not load all of it: encoder\n" in partly.stderr
