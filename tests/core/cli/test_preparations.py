"""Plugins that prepare a tokenizer for `vtp eval`, `encode` and `decode`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.core.cli.small_tokenizer import vtp

PREPARING = """
from vtp_core.plugins import hookimpl
vtp_api = 2

def prepare(tokenizer):
    assert not tokenizer.training and tokenizer.device.type == "cpu"
    tokenizer.encoder.register_forward_hook(lambda *_: print("encoded"))
    return "prepared here"

@hookimpl
def register_preparations(register):
    register("own", prepare)
    register("broken", "no_such_module_of_ours:prepare")
    register("useless", lambda tokenizer: None)
"""


@pytest.mark.parametrize(
    ("command", "options", "applied"),
    [
        ("encode", (), True),
        ("encode", ("--exact",), False),
        ("eval", (), True),
        ("eval", ("--exact",), False),
    ],
)
def test_plugins_prepare_a_tokenizer_where_rounding_may_differ(
    home: Path, tmp_path: Path, command: str, options: tuple[str, ...], applied: bool
) -> None:
    plugin = tmp_path / "foo.py"
    plugin.write_text(PREPARING)
    arguments: list[object] = [home / "artefact", home / "photos"]
    if command == "eval":
        source = f'{{ use = "image_folder", path = "{home / "photos"}" }}'
        arguments = [home / "artefact", "--source", source, "--evaluator", "reconstruction"]
    result = vtp(command, *arguments, *options, "-o", tmp_path / "o.safetensors", "--plugin", plugin)
    assert result.exit_code == 0, result.output
    assert ("foo.own: prepared here" in result.stderr) == applied
    assert ('left out: preparation "foo.broken"' in result.stderr) == applied
    assert ("encoded" in result.stdout) == applied and "useless" not in result.output


def test_decode_prepares_too(home: Path, tmp_path: Path) -> None:
    save_file({"latents": torch.randn(1, 6, 2, 2)}, tmp_path / "z.safetensors")
    plugin = tmp_path / "foo.py"
    plugin.write_text(PREPARING)
    arguments = ("decode", home / "artefact", tmp_path / "z.safetensors", "-o", tmp_path / "d")
    assert "prepared here" in vtp(*arguments, "--plugin", plugin).stderr
    assert "prepared here" not in vtp(*arguments, "--exact", "--plugin", plugin).stderr
