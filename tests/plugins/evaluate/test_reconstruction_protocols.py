"""Named protocols of the evaluator `reconstruction`."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from pydantic import ValidationError
from torchmetrics.functional.image.ssim import structural_similarity_index_measure

from tests.core.evaluation_sets import drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from vtp_core.cli.arguments.tables import read_table
from vtp_core.errors import UsageError
from vtp_core.evaluation.runner import evaluate
from vtp_core.pixels import IMAGENET_MEAN, IMAGENET_STD
from vtp_core.plugins import load_plugins
from vtp_plugins.evaluate_reconstruction.config import ReconstructionConfig
from vtp_plugins.evaluate_reconstruction.evaluator import Reconstruction
from vtp_plugins.evaluate_reconstruction.protocols import PROTOCOLS


def test_vtps_protocol_is_the_releases_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float pixels, torchmetrics' SSIM, LPIPS by default; what the release lacks has no name of its."""
    vtp = PROTOCOLS["vtp-2512"]
    own = dataclasses.replace(vtp.preparation, encode="own")
    monkeypatch.setitem(
        PROTOCOLS,  # type: ignore[arg-type]
        "vtp-2512",
        dataclasses.replace(vtp, image_size=32, images=6, preparation=own, lpips="lpips_squeeze"),
    )
    evaluator = Reconstruction(ReconstructionConfig(protocol="vtp-2512", lpips_weights="random"))
    model, held_out = toy_tokenizer(image_size=32), drawn_set("val", 6, 0, size=32)
    with torch.no_grad():
        model.encoder.scale.fill_(0.9)
        (batch,) = held_out.batches(32, 6)
        pixels = batch.to(model.device).image
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        decoded = (model.decode(model.encode(pixels).latent).sample * std + mean).clamp(0, 1).double()
    image = batch.image.double() / 255
    results = evaluate(model, {"r": evaluator}, held_out, rows=4)
    assert results.keys() == {f"{name}@vtp-2512" for name in ("psnr", "ssim", "lpips_random")}
    expected = -10 * (decoded - image).square().mean((1, 2, 3)).log10()
    entry, similarity = results["psnr@vtp-2512"], results["ssim@vtp-2512"]
    assert entry["value"] == pytest.approx(float(expected.mean()), abs=1e-4)
    structure = structural_similarity_index_measure(decoded, image, data_range=1.0)
    assert similarity["value"] == pytest.approx(float(structure), abs=1e-6)
    assert "number of GPUs and images in a batch" in similarity["notes"][-1]  # type: ignore[index]
    plain = evaluate(model, {"r": Reconstruction(ReconstructionConfig())}, held_out)
    assert abs(float(entry["value"]) - float(plain["psnr"]["value"])) > 1e-4
    assert {"color_shift", "texture"} <= plain.keys()
    for one, how in ((entry, ""), (similarity, ", windows of all pixels, mirrored borders")):
        settings = f"mode latent, mean of images{how}); centre-crop-v1, float pixels 32 px;"
        assert str(one["protocol"]).startswith(f"vtp-2512: reconstruction-v1 ({settings}")
    assert "mirrored" not in str(plain["ssim"]["protocol"])


def test_the_network_of_lpips_is_that_of_the_protocol() -> None:
    table = ReconstructionConfig(protocol="vtp-2512")
    assert (table.lpips, table.network) == (None, "lpips_vgg")
    assert list(Reconstruction(table).metrics) == ["psnr", "ssim", "lpips_vgg"]
    assert ReconstructionConfig(protocol="vtp-2512", lpips="lpips_vgg").network == "lpips_vgg"


@pytest.mark.parametrize("name", ["dino-tok-2511", "dino-tok-2511-zero-shot-512"])
def test_what_a_table_lacks_is_not_measured_under_its_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = PROTOCOLS[name]
    small = dataclasses.replace(named, image_size=16, images=named.images and 3)
    monkeypatch.setitem(PROTOCOLS, name, small)  # type: ignore[arg-type]
    held_out = drawn_set("val", 3, 0)
    results = evaluate(toy_tokenizer(), {"r": Reconstruction(ReconstructionConfig(protocol=name))}, held_out)
    assert results.keys() == {f"{metric}@{name}" for metric in named.metrics if metric != "lpips"}
    none = Reconstruction(ReconstructionConfig(protocol=name, lpips="none"))
    without = evaluate(toy_tokenizer(), {"r": none}, held_out)
    assert without.keys() == results.keys()
    missing = f'{name} also has LPIPS, which is not measured: lpips = "none"'
    assert (missing in without[f"psnr@{name}"]["notes"]) == ("lpips" in named.metrics)  # type: ignore[operator]
    missing = f"{name} also has LPIPS, which is not measured: `lpips` names no network"
    assert (missing in results[f"psnr@{name}"]["notes"]) == ("lpips" in named.metrics)  # type: ignore[operator]
    assert any("network of LPIPS" in text for text in named.unknown) == ("lpips" in named.metrics)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "vtp"}, "'vtp' is none of imagenet256-reconstruction-v1, vtp-2512"),
        ({"protocol": "vtp-2512", "lpips": "lpips_alex"}, 'is measured with lpips = "lpips_vgg"'),
        ({"force": True}, "force needs a protocol"),
    ],
)
def test_tables_that_contradict_their_protocol_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ReconstructionConfig.model_validate(settings)


def test_a_table_of_an_older_run_is_measured_without_lpips_where_the_protocol_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "dino-tok-2511-zero-shot-512"
    monkeypatch.setitem(PROTOCOLS, name, dataclasses.replace(PROTOCOLS[name], image_size=16))  # type: ignore[arg-type]
    table = ReconstructionConfig(protocol=name, lpips="lpips_alex", lpips_weights="random")
    assert table.conflicts() == {"lpips": f"protocol {name} has no LPIPS; leave lpips out"}
    results = evaluate(toy_tokenizer(), {"r": Reconstruction(table)}, drawn_set("val", 3, 0))
    note = f'{name} has no LPIPS, so lpips = "lpips_alex" is not measured'
    assert list(results) == [f"psnr@{name}"] and note in results[f"psnr@{name}"]["notes"]  # type: ignore[operator]
    given = f'{{ use = "reconstruction", protocol = "{name}", lpips = "lpips_alex" }}'
    with pytest.raises(UsageError, match=r"^evaluator reconstruction: lpips: protocol .* leave lpips out$"):
        read_table(given, "evaluator", load_plugins())


def test_weights_that_only_the_protocol_asks_for_can_be_left_out() -> None:
    for lpips, end in ((None, '; lpips = "none" leaves LPIPS out of vtp-2512'), ("lpips_vgg", "")):
        table = ReconstructionConfig(protocol="vtp-2512", lpips=lpips, lpips_weights="no.safetensors")
        with pytest.raises(UsageError, match=f"no.safetensors.*{end}$") as caught:
            Reconstruction(table).load()
        assert ("leaves LPIPS out" in str(caught.value)) == bool(end)
    left = Reconstruction(ReconstructionConfig(protocol="vtp-2512", lpips="none"))
    left.load()
    assert list(left.metrics) == ["psnr", "ssim"]
    with pytest.raises(UsageError, match="lpips_weights needs lpips"):
        Reconstruction(ReconstructionConfig(protocol="vtp-2512", lpips="none", lpips_weights="random"))
