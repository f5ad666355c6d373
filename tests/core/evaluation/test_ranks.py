"""Every first-party evaluator gives the same numbers on two ranks and on one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.core.evaluation_sets import drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.evaluation.evaluator import Evaluator
from vtp_core.evaluation.runner import evaluate
from vtp_core.testing.ranks import run_processes
from vtp_core.training.ranks.world import World
from vtp_plugins.evaluate_frechet.config import FrechetConfig
from vtp_plugins.evaluate_frechet.evaluator import Frechet
from vtp_plugins.evaluate_knn.config import KnnConfig
from vtp_plugins.evaluate_knn.evaluator import Knn
from vtp_plugins.evaluate_latents.config import LatentStatisticsConfig
from vtp_plugins.evaluate_latents.evaluator import LatentStatistics
from vtp_plugins.evaluate_linear_probe.config import LinearProbeConfig
from vtp_plugins.evaluate_linear_probe.evaluator import LinearProbe
from vtp_plugins.evaluate_reconstruction.config import ReconstructionConfig
from vtp_plugins.evaluate_reconstruction.evaluator import Reconstruction
from vtp_plugins.evaluate_retrieval.config import RetrievalConfig
from vtp_plugins.evaluate_retrieval.evaluator import Retrieval
from vtp_plugins.evaluate_zero_shot.config import ZeroShotConfig
from vtp_plugins.evaluate_zero_shot.evaluator import ZeroShot


def measured(world: World, count: int, networks: bool = False) -> dict[str, Tensor]:
    torch.manual_seed(0)
    evaluators: dict[str, Evaluator] = {
        "latent_statistics": LatentStatistics(LatentStatisticsConfig()),
        "reconstruction": Reconstruction(ReconstructionConfig()),
        "linear_probe": LinearProbe(LinearProbeConfig()),
        "knn": Knn(KnnConfig(neighbors=3)),
        "zero_shot": ZeroShot(ZeroShotConfig()),
        "retrieval": Retrieval(RetrievalConfig()),
    }
    if networks:
        trunk = ReconstructionConfig(lpips="lpips_squeeze", lpips_weights="random")
        timm = {"network": "timm:test_efficientnet", "weights": "random", "resize": 32}
        evaluators |= {
            "reconstruction": Reconstruction(trunk),
            "frechet": Frechet(FrechetConfig(**timm, metrics=("frechet", "kernel"), allow_fewer=True)),
        }
    side = 32 if networks else 16
    model = toy_tokenizer(image_size=side)
    with torch.no_grad():
        model.encoder.scale.fill_(0.8)
        for parameter in model.exports.parameters():
            parameter.copy_(torch.sin(torch.arange(parameter.numel()).float()).view_as(parameter))
    held_out, train = drawn_set("val", count, 1, size=side), drawn_set("train", 23, 0, size=side)
    results = evaluate(model, evaluators, held_out, train, rows=4, world=world)
    found = {}
    for name, entry in results.items():
        numbers = {"value": entry["value"], "baseline": entry["baseline"], **entry["also"]}
        numbers |= {
            "error": entry["error"],
            **dict(zip(("low", "high"), entry["interval"] or (), strict=False)),
        }
        known = {key: number for key, number in numbers.items() if number is not None}
        found |= {f"{name}.{key}": torch.tensor(v, dtype=torch.float64) for key, v in known.items()}
        text = torch.tensor(list(str(entry["protocol"]).encode()), dtype=torch.uint8)
        found[f"{name}.protocol"] = text
    return found


@pytest.mark.distributed
@pytest.mark.parametrize(("count", "size"), [(17, 2), (2, 3)])
def test_ranks_equal_one_process(count: int, size: int) -> None:
    """With 2 held-out images on 3 ranks, one rank has no held-out batch at all."""
    compare(measured(World(), count), run_processes(size, measured, count), 1e-9)


@pytest.mark.slow
@pytest.mark.distributed
def test_ranks_equal_one_process_with_feature_networks() -> None:
    """Features are float32, of other batches on each rank."""
    compare(measured(World(), 17, True), run_processes(2, measured, 17, True), 1e-5)


def compare(alone: dict[str, Tensor], ranks: list[dict[str, Tensor]], tolerance: float) -> None:
    assert len(alone) > 50
    for rank in ranks:
        assert rank.keys() == alone.keys()
        for name, number in alone.items():
            assert rank[name].shape == number.shape, name
            close = torch.allclose(rank[name].double(), number.double(), rtol=tolerance, atol=tolerance)
            assert close, (name, rank[name], number)
