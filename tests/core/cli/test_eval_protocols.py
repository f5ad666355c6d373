"""`vtp eval --protocol`: the evaluators that a named protocol chooses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.core.cli.small_tokenizer import vtp
from vtp_core.cli.arguments.protocols import chosen_evaluators, known_protocols
from vtp_core.errors import UsageError
from vtp_core.plugins import load_plugins
from vtp_core.recipe import load_recipe


def test_eval_by_a_named_protocol(home: Path, tmp_path: Path) -> None:
    source, out = f'{{ use = "image_folder", path = "{home / "photos"}" }}', tmp_path / "eval.json"
    sets = ("--source", source, "--train-source", source)
    result = vtp("eval", home / "artefact", *sets, "--protocol", "probe-latent-mean-v1", "-o", out)
    assert result.exit_code == 0, result.output
    ((metric, entry),) = json.loads(out.read_text()).items()
    assert metric == "linear_probe" and entry["protocol"].startswith("probe-latent-mean-v1")
    wrong = vtp("eval", home / "artefact", *sets, "--protocol", "imagenet256-rfid-v1", "--evaluator", "knn")
    assert (wrong.exit_code, wrong.stderr) == (
        2, "error: --protocol imagenet256-rfid-v1 is of frechet, not of knn\n"
    )  # fmt: skip
    unknown = vtp("eval", home / "artefact", *sets, "--protocol", "vtp-2521")
    assert unknown.exit_code == 2 and 'no evaluator has it; did you mean "vtp-2512"?' in unknown.stderr


def test_what_a_protocol_refuses_is_known_before_weights_are_searched(
    home: Path, photos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[str] = []

    def search(network: str, *_: object) -> Path:
        searched.append(network)
        raise UsageError(f"weights of {network} not found")

    monkeypatch.setattr("vtp_plugins.evaluate_frechet.inception.weights_file", search)
    monkeypatch.setattr("vtp_plugins.perceptual.network.find_weights", search)
    arguments = ("eval", home / "artefact", "--source", photos, "--protocol", "vtp-2512")
    why = "vtp-2512 is measured at 256 px, and the tokenizer has 16 px"
    for names in (("frechet",), ("reconstruction", "frechet")):
        result = vtp(*arguments, *(part for name in names for part in ("--evaluator", name)))
        line = f"error: evaluator {names[0]}: {why}; leave it out or change the data\n"
        assert result.exit_code == 2 and result.stderr.endswith(line)
    unnamed = vtp(*arguments)
    probe = why.replace("vtp-2512", "vtp-2512-selected-on-held-out")
    for name, reason in (("frechet", why), ("reconstruction", why), ("dino_probe", probe)):
        assert f"left out: {name}: {reason}\n" in unnamed.stderr
    table = '{ use = "reconstruction", lpips = "lpips_vgg" }'
    others = ("--evaluator", table, "--evaluator", "zero_shot")
    refused = vtp(*arguments[:4], *others)
    assert "evaluator zero_shot: the tokenizer has no embed_image" in refused.stderr and searched == []
    assert vtp(*arguments[:4], "--evaluator", table).exit_code == 2 and searched == ["vgg16"]


def test_a_protocol_chooses_every_evaluator_that_has_it() -> None:
    plugins = load_plugins()
    every = chosen_evaluators((), ("vtp-2512",), {}, plugins)
    assert every.keys() == {"dino_probe", "frechet", "reconstruction", "zero_shot"}
    assert all(getattr(table, "protocol") == "vtp-2512" for table in every.values())  # noqa: B009
    table = '{ use = "frechet", force = true }'
    ((name, forced),) = chosen_evaluators((table,), ("vtp-2512",), {}, plugins).items()
    assert name == "frechet" and getattr(forced, "force") is True  # noqa: B009
    with pytest.raises(UsageError, match="protocol = 'rae' contradicts --protocol titok"):
        chosen_evaluators(('{ use = "frechet", protocol = "rae" }',), ("titok",), {}, plugins)
    # What else a protocol needs, such as a file, comes from a recipe that has it.
    with pytest.raises(UsageError, match="give that file as reference"):
        chosen_evaluators((), ("vtp-2512-gfid50k-xl",), {}, plugins)
    recipe = load_recipe("table2", (), plugins).evaluators
    found = chosen_evaluators((), ("vtp-2512-gfid50k-xl", "vtp-2512"), recipe, plugins)
    assert found["frechet_generated"] is recipe["gfid"] and found["frechet"] is recipe["rfid"]


def test_the_keys_of_protocols_are_those_of_tables() -> None:
    plugins = load_plugins()
    known = known_protocols(plugins)
    assert {"probe-latent-grid-v1", "lightningdit", "rae", "titok", "rae-gfid50k"} <= known.keys()
    for name, having in known.items():
        for use, keys in having.items():
            fields = plugins.find("evaluator", use).load_config().model_fields
            assert keys and keys.keys() <= fields.keys(), (name, use)
