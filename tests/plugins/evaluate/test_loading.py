"""Before `load` reads a file, evaluators know their metrics and what tokenizer and sets lack for them."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest

from tests.core.evaluation_sets import drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from tests.plugins.evaluate.test_frechet_generated import generating
from vtp_core.errors import UsageError
from vtp_core.evaluation.evaluator import Evaluator
from vtp_core.evaluation.runner import evaluate, why_not
from vtp_core.plugins import Plugins, load_plugins

SMALL = "timm:test_resnet"


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins()


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every search of weights is an error."""

    def search(network: str, *_: object) -> NoReturn:
        raise UsageError(f"searched: {network}")

    monkeypatch.setattr("vtp_plugins.evaluate_frechet.inception.weights_file", search)
    monkeypatch.setattr("vtp_plugins.evaluate_frechet.network.find_weights", search)
    monkeypatch.setattr("vtp_plugins.perceptual.network.find_weights", search)


def built(plugins: Plugins, table: dict[str, Any]) -> Evaluator:
    component = plugins.find("evaluator", table["use"])
    evaluator: Evaluator = component.load_target()(component.load_config().model_validate(table))
    return evaluator


@pytest.mark.usefixtures("searches")
@pytest.mark.parametrize(
    ("table", "metric"),
    [
        ({"use": "frechet", "network": SMALL}, "fd_test_resnet"),
        ({"use": "frechet", "protocol": "vtp-2512"}, "rfid"),
        ({"use": "frechet_generated", "network": SMALL}, "gfd_test_resnet"),
        ({"use": "diffusability", "network": SMALL}, "decode_noise_kd_0.1"),
        ({"use": "probe_gen", "network": SMALL}, "probe_gen_kernel"),
        ({"use": "reconstruction", "lpips": "lpips_vgg"}, "lpips_vgg"),
    ],
    ids=lambda given: given["use"] if isinstance(given, dict) else given,
)
def test_weights_are_searched_by_load_alone(plugins: Plugins, table: dict[str, Any], metric: str) -> None:
    evaluator = built(plugins, table)
    assert metric in evaluator.metrics and evaluator.least_samples >= 0
    held_out, train = drawn_set("val", 3, 0), drawn_set("train", 3, 1)
    why_not(evaluator, toy_tokenizer(), held_out, train)
    for _ in range(2):
        with pytest.raises(UsageError, match="searched: "):
            evaluator.load()


@pytest.mark.usefixtures("searches")
def test_a_reference_is_read_by_load_alone(plugins: Plugins) -> None:
    table = {"use": "frechet_generated", "network": SMALL, "weights": "random", "allow_fewer": True}
    evaluator = built(plugins, {**table, "samples": 16, "reference": "none.npz", "floor": False})
    assert why_not(evaluator, generating(), None, None) is None
    with pytest.raises(UsageError, match=r"none\.npz: no such file"):
        evaluate(generating(), {"g": evaluator})
