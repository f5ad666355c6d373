"""`vtp export --with critics`: an artefact from which a later stage goes on with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from tests.core.run.tiny_run import one_line, state, vtp
from vtp_core import load
from vtp_core.cli.main import main

pytestmark = pytest.mark.slow

GAN = (
    "objectives.gan.use=gan",
    "objectives.gan.view=rec",
    "objectives.gan.critic={kind='patchgan', filters=4, layers=1}",
    "run.steps=2",
)
STILL = ("optimizer.lr=1e-30", "objectives.gan.critic_optimizer.lr=1e-30", "ema.networks=[]")


def export(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments), "--no-statistics"])


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run with a critic, and of its export."""
    folder = tmp_path_factory.mktemp("first")
    result = vtp(folder, *GAN)
    assert result.exit_code == 0, result.output
    exported = export(folder / "run", folder / "exported", "--with", "critics")
    assert exported.exit_code == 0, exported.output
    return folder


def test_the_next_stage_goes_on_with_the_critic(first: Path, tmp_path: Path) -> None:
    before = state(first)
    critic = {name: value for name, value in before.items() if name.startswith("objectives.gan.")}
    stored = load_file(first / "exported/critics/gan/model.safetensors")
    assert stored.keys() == {name.removeprefix("objectives.gan.") for name in critic}
    assert all(torch.equal(stored[name.removeprefix("objectives.gan.")], critic[name]) for name in critic)
    listed = (first / "exported/SHA256SUMS").read_text()
    assert "critics/gan/model.safetensors" in listed
    assert load(first / "exported").capabilities == load(first / "run").capabilities
    result = vtp(tmp_path, f'init_from="{first / "exported"}"', *GAN, *STILL, "run.steps=1")
    assert result.exit_code == 0, result.output
    after = state(tmp_path)
    weights = [name for name in critic if ".critic." in name]
    assert weights and all(torch.equal(after[name], before[name]) for name in weights)


def test_without_them_the_critic_starts_fresh(first: Path, tmp_path: Path) -> None:
    assert export(first / "run", tmp_path / "exported").exit_code == 0
    assert not (tmp_path / "exported/critics").exists()
    result = vtp(tmp_path, f'init_from="{tmp_path / "exported"}"', *GAN, *STILL, "run.steps=1")
    assert result.exit_code == 0, result.output
    assert "objectives.gan: " in result.output and "starts fresh" in result.output


def test_a_critic_of_other_sizes_or_that_was_edited_is_refused(first: Path, tmp_path: Path) -> None:
    source = f'init_from="{first / "exported"}"'
    result = vtp(tmp_path, source, *GAN, *STILL, "objectives.gan.critic.filters=8")
    assert result.exit_code == 5 and "objectives.gan.critic" in one_line(result)
    path = first / "exported/critics/gan/model.safetensors"
    kept = path.read_bytes()
    save_file({name: value + 1 for name, value in load_file(path).items()}, path)
    result = vtp(tmp_path, source, *GAN, *STILL)
    path.write_bytes(kept)
    assert result.exit_code == 5 and "differs from its hash" in one_line(result)


def test_where_there_is_no_critic_to_store(first: Path, tmp_path: Path) -> None:
    result = export("vtp-nano", tmp_path / "a", "--with", "critics")
    assert result.exit_code == 2 and "a tokenizer has none of its own; give the run folder" in result.output
    result = export(first / "run", tmp_path / "a", "--with", "critics", "--format", "vtp")
    assert result.exit_code == 2 and "format vtp has no place for them" in result.output
    assert vtp(tmp_path, "run.steps=1").exit_code == 0
    result = export(tmp_path / "run", tmp_path / "a", "--with", "critics")
    assert result.exit_code == 2 and "recipe tiny: trains no critic" in one_line(result)
    assert not (tmp_path / "a").exists()
