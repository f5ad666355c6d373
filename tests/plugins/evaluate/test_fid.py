"""The network of FID, named protocols, and files of reference statistics."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.agreement import Agreement
from tests.core.evaluation_sets import drawn_set
from tests.core.toy_tokenizer import toy_tokenizer
from tests.plugins.evaluate.test_frechet_generated import HELD_OUT, TRAIN, evaluator, generating
from vtp_core.cli.arguments.tables import read_table
from vtp_core.errors import NumericError, UsageError
from vtp_core.evaluation.latents import measure_latents
from vtp_core.evaluation.runner import evaluate
from vtp_core.plugins import load_plugins
from vtp_plugins.evaluate_frechet.config import FrechetConfig, FrechetGeneratedConfig
from vtp_plugins.evaluate_frechet.evaluator import Frechet
from vtp_plugins.evaluate_frechet.generated import FrechetGenerated
from vtp_plugins.evaluate_frechet.inception import SIDE, InceptionFeatures, checked_state
from vtp_plugins.evaluate_frechet.metric import Moments, frechet_distance
from vtp_plugins.evaluate_frechet.network import PooledFeatures
from vtp_plugins.evaluate_frechet.protocols import COMPAT, INCEPTION_SHA256, PROTOCOLS, PYTORCH_FID
from vtp_plugins.evaluate_frechet.statistics import read_statistics

SMALL = "timm:test_resnet"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.agrees("FID features: resize, trunk, pooling", "torch-fidelity", 1e-6, relative=True)
@pytest.mark.slow
def test_features_are_those_of_torch_fidelity_with_the_same_trunk(
    tmp_path: Path, agreement: Agreement
) -> None:
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    file = tmp_path / "trunk.pth"
    trunk = InceptionFeatures(COMPAT, "random").load().trunk
    for layer in trunk.modules():
        if isinstance(layer, torch.nn.Conv2d):  # else the features of an untrained network are near 0
            torch.nn.init.kaiming_normal_(layer.weight)
    torch.save(trunk.state_dict(), file)
    image = torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8)
    for double in (False, True):
        own = InceptionFeatures(COMPAT, str(file), double=double, digest=digest(file))
        theirs = fidelity.FeatureExtractorInceptionV3(
            COMPAT, ["2048"], str(file), "float64" if double else "float32"
        )
        expected = theirs(image)[0]
        assert expected.mean() > 0.01
        agreement(own(image).float(), expected)
        assert own.fingerprint == digest(file)[:16] and f"weights {own.fingerprint}" in own.description
    # pytorch-fid: torch's own bilinear resize of [0, 1] pixels, then 2 x - 1; the layers are the same.
    other = InceptionFeatures(PYTORCH_FID, str(file), digest=digest(file)).load()
    fed: list[Tensor] = []
    hook = other.trunk.Conv2d_1a_3x3.register_forward_pre_hook(lambda module, given: fed.append(given[0]))
    other(image)
    hook.remove()
    grid = torch.stack(
        torch.meshgrid(*((torch.arange(SIDE) + 0.5) * 2 / SIDE - 1 for _ in "yx"), indexing="ij"), -1
    ).flip(-1)
    sampled = F.grid_sample(
        image.float() / 127.5 - 1,
        grid.expand(2, -1, -1, -1),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    torch.testing.assert_close(fed[0], sampled, rtol=0, atol=1e-4)
    assert not torch.allclose(other(image), own(image).float(), rtol=1e-3)


@pytest.mark.agrees("Fréchet distance of two sets", "torchmetrics", 1e-6, relative=True)
@pytest.mark.slow
def test_the_distance_is_that_of_torchmetrics_with_the_same_network(agreement: Agreement) -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    network = PooledFeatures(SMALL, "random", 32)
    metric = fid.FrechetInceptionDistance(feature=network).set_dtype(torch.float64)
    images = [drawn_set("x", 120, seed).source.images for seed in (0, 1)]  # type: ignore[attr-defined]
    sets = [torch.from_numpy(part).permute(0, 3, 1, 2) for part in images]
    normals = []
    for part, real in zip(sets, (True, False), strict=True):
        metric.update(part, real=real)
        moments = Moments(network.width)
        moments.add(network(part))
        normals.append(moments.mean_and_covariance())
    agreement(frechet_distance(*normals), metric.compute())


def test_a_file_of_another_hash_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "inception.safetensors"
    save_file({"weight": torch.zeros(2)}, file)
    with pytest.raises(UsageError) as caught:
        InceptionFeatures(COMPAT, str(file)).load()
    message = str(caught.value)
    assert "\n" not in message and f"SHA-256 is {digest(file)[:16]}" in message
    assert f"{COMPAT} has {INCEPTION_SHA256[:16]}" in message and "6726825d.pth" in message
    assert checked_state(COMPAT, file, digest(file)).keys() == {"weight"}
    with pytest.raises(UsageError, match="no such file"):
        InceptionFeatures(COMPAT, str(tmp_path / "none.pth")).load()


def test_without_a_download_the_message_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="give the file weights-inception-2015-12-05-6726825d"):
        InceptionFeatures(COMPAT, None).load()
    assert "are missing: give" in str(Frechet.must_download(FrechetConfig(network=COMPAT)))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_fix_what_they_name(name: str) -> None:
    named = PROTOCOLS[name]
    reference = {"reference": "VIRTUAL_imagenet256_labeled.npz"} if named.generated else {}
    kind = FrechetGeneratedConfig if named.generated else FrechetConfig
    other = FrechetConfig if named.generated else FrechetGeneratedConfig
    config = kind.model_validate({"protocol": name, **reference})
    assert config.networks == (named.extractor,) and config.measured == named.metrics
    if isinstance(config, FrechetGeneratedConfig):
        assert config.count == named.images
        with pytest.raises(ValidationError, match="give that file as reference"):
            kind.model_validate({"protocol": name})
    with pytest.raises(ValidationError, match="is none of"):
        other.model_validate({"protocol": name})
    for key, value in {"network": SMALL, "resize": 64, "metrics": ["precision_recall"]}.items():
        with pytest.raises(ValidationError, match=f"fixes {key}; leave it out"):
            kind.model_validate({"protocol": name, key: value, **reference})
    # A recipe that is written out in full, with all defaults, reads the same.
    assert kind.model_validate(config.model_dump()) == config
    assert named.extractor_hash == INCEPTION_SHA256 and named.source and named.reference


def test_vtps_two_protocols_of_samples_differ_in_name_count_and_transformer() -> None:
    small, large = PROTOCOLS["vtp-2512-gfid10k-b"], PROTOCOLS["vtp-2512-gfid50k-xl"]
    assert (small.images, large.images) == (10_000, 50_000)
    assert "LightningDiT-B/1" in small.notes()[0] and "LightningDiT-XL/1" in large.notes()[0]
    assert small.label(10_000) != large.label(50_000)
    assert large.label(10_000) == "vtp-2512-gfid50k-xl-PARTIAL-10000-of-50000"


def test_what_is_not_known_of_dino_toks_tables_is_marked() -> None:
    named = PROTOCOLS["dino-tok-2511"]
    assert "crop and resize filter, rounding to 8 bit, extractor, precision" in named.notes()[0]
    zero_shot = PROTOCOLS["dino-tok-2511-zero-shot-512"]
    assert zero_shot.label(123, of=123) == "dino-tok-2511-zero-shot-512"
    assert zero_shot.label(99, of=123) == "dino-tok-2511-zero-shot-512-PARTIAL-99-of-123"
    gfid = PROTOCOLS["dino-tok-2511-gfid"]
    assert gfid.metrics == ("frechet", "precision_recall")
    assert "dino-tok-2511-gfid also has the Inception score, which is not measured" in gfid.notes()


@pytest.mark.parametrize("count", [20, 17])
def test_a_protocol_fixes_extractor_rounding_and_precision(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = replace(PROTOCOLS["vtp-2512"], name="toy-1", image_size=16, images=20, extractor=SMALL)
    monkeypatch.setitem(PROTOCOLS, "toy-1", named)  # type: ignore[arg-type]
    table, held_out = (
        {"protocol": "toy-1", "weights": "random", "allow_fewer": True},
        drawn_set("val", count, 0),
    )
    if count < 20:
        with pytest.raises(UsageError, match="toy-1 is measured on 20 images, and val has 17; force = true"):
            evaluate(toy_tokenizer(), {"fid": Frechet(FrechetConfig.model_validate(table))}, held_out)
    forced = Frechet(FrechetConfig.model_validate({**table, "force": count < 20}))
    ((metric, entry),) = evaluate(toy_tokenizer(), {"fid": forced}, held_out).items()
    label = "toy-1" if count == 20 else "toy-1-PARTIAL-17-of-20"
    assert metric == f"fd_random@{label}"
    protocol = str(entry["protocol"])
    assert protocol.startswith(f"{label}: frechet-v1 (timm:test_resnet, weights random, 96 pooled features")
    assert "; centre-crop-v1, 8 bit by clamp and truncation, encoder in bfloat16 16 px; on val" in protocol
    with pytest.raises(ValidationError, match="force needs a protocol"):
        FrechetConfig.model_validate({"force": True})


def test_a_table_on_the_command_line_that_contradicts_itself_is_one_clear_line() -> None:
    plugins = load_plugins()
    with pytest.raises(UsageError) as caught:
        read_table('{ use = "frechet", protocol = "fid" }', "evaluator", plugins)
    assert str(caught.value).startswith("evaluator frechet: protocol 'fid' is none of imagenet256-rfid-v1, ")


def test_three_images_are_too_few_even_if_few_are_allowed() -> None:
    table = {"network": SMALL, "weights": "random", "resize": 32, "allow_fewer": True}
    fd = Frechet(FrechetConfig.model_validate(table))
    with pytest.raises(UsageError, match="evaluator fd: it needs 16 samples, and val has 3"):
        evaluate(toy_tokenizer(), {"fd": fd}, drawn_set("val", 3, 0))


def test_a_saved_reference_gives_the_numbers_of_its_set(tmp_path: Path) -> None:
    file = tmp_path / "sub" / "train.safetensors"
    metrics = ("frechet", "kernel", "precision_recall")
    first = evaluate(
        generating(), {"g": evaluator(metrics=metrics, save_reference=str(file))}, HELD_OUT, TRAIN
    )
    again = evaluate(generating(), {"g": evaluator(metrics=metrics, reference=str(file))}, HELD_OUT)
    assert again.keys() == first.keys()
    for metric, entry in again.items():
        assert entry["value"] == pytest.approx(first[metric]["value"], rel=1e-6)
        assert entry["also"]["floor"] == pytest.approx(first[metric]["also"]["floor"], rel=1e-6)  # type: ignore[index]
    protocol = str(again["gfd_random"]["protocol"])
    assert f", {len(TRAIN.indices())} images of 16 px, float64 moments" in protocol
    assert "8 bit, against train.safetensors of hash " in protocol and "against train," not in protocol
    # An archive as ADM's has no features, and no network's name.
    known, archive = load_file(file), tmp_path / "adm.npz"
    mean, covariance = (known[f"{SMALL}/{part}"].numpy() for part in ("mean", "covariance"))
    numpy.savez(archive, mu=mean, sigma=covariance, arr_0=numpy.zeros((2, 4), numpy.uint8))
    alone = evaluator(metrics=("frechet",), reference=str(archive), floor=False)
    (entry,) = evaluate(generating(), {"g": alone}).values()
    assert entry["value"] == pytest.approx(first["gfd_random"]["value"], rel=1e-6)
    assert entry["baselines"] == {} and entry["verdict"] is None
    assert "no trivial answer: Gaussian latents could follow neither a set" in str(entry["notes"])
    # A tokenizer with the statistics of that training set has the Gaussian latents that read it.
    known_model = generating()
    known_model.config = measure_latents(known_model, TRAIN)
    (entry,) = evaluate(known_model, {"g": alone}).values()
    expected = first["gfd_random"]["baselines"]
    assert expected and entry["baselines"] == pytest.approx(expected, rel=1e-4)
    assert entry["verdict"] == first["gfd_random"]["verdict"] and "no set is read" in str(entry["notes"])
    assert "of hash " in str(entry["protocol"]) and ", which names no network" in str(entry["protocol"])
    with pytest.raises(UsageError, match="holds no features of images and no images"):
        evaluator(metrics=("kernel",), reference=str(archive)).load()
    # Its images, where it has some as ADM's, give what needs features of single images.
    images = TRAIN.source.images  # type: ignore[attr-defined]
    numpy.savez_compressed(archive, mu=mean, sigma=covariance, arr_0=images)
    third = evaluate(generating(), {"g": evaluator(metrics=metrics, reference=str(archive))}, HELD_OUT)
    for metric, entry in third.items():
        assert entry["value"] == pytest.approx(first[metric]["value"], rel=1e-5), metric
    assert f"against {len(images)} images of CRC " in str(third["gkd_random"]["protocol"])
    assert "CRC" not in str(third["gfd_random"]["protocol"])


def test_a_saved_reference_of_few_images_or_of_another_resize_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "few.safetensors"
    few = replace(TRAIN, limit=20)
    evaluate(generating(), {"g": evaluator(metrics=("kernel",), save_reference=str(file))}, HELD_OUT, few)
    with pytest.raises(UsageError, match=r"is of 20 images, and \d+ are needed; write it of more, or set"):
        evaluator(metrics=("frechet",), reference=str(file), allow_fewer=False).load()
    evaluator(metrics=("kernel",), reference=str(file), allow_fewer=False).load()
    evaluator(metrics=("frechet",), reference=str(file), allow_fewer=True).load()
    with pytest.raises(UsageError, match=r"features of timm:test_resnet.*, not of .* 48 px bilinear"):
        evaluator(metrics=("kernel",), reference=str(file), resize=48).load()


def test_a_protocol_measures_precision_where_its_reference_has_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gfid = PROTOCOLS["dino-tok-2511-gfid"]
    named = replace(gfid, name="toy-g", image_size=16, images=20, extractor=SMALL, sampling={})
    monkeypatch.setitem(PROTOCOLS, "toy-g", named)  # type: ignore[arg-type]
    width, file = PooledFeatures(SMALL, "random", None).width, tmp_path / "adm.npz"
    moments = {"mu": numpy.zeros(width), "sigma": numpy.eye(width)}
    table = {"protocol": "toy-g", "weights": "random", "allow_fewer": True, "reference": str(file)}
    found = {}
    for images in (None, drawn_set("x", 20, 3).source.images):  # type: ignore[attr-defined]
        numpy.savez(file, **moments, **({} if images is None else {"arr_0": images}))
        config = FrechetGeneratedConfig.model_validate({**table, "floor": False})
        found[images is None] = evaluate(generating(), {"g": FrechetGenerated(config)})
    keys = {f"{metric}_random@toy-g" for metric in ("gfd", "gprecision", "grecall")}
    assert found[False].keys() == keys
    ((key, entry),) = found[True].items()
    assert key == "gfd_random@toy-g"
    assert any(
        "also has precision and recall, which are not measured: adm.npz" in note for note in entry["notes"]
    )  # type: ignore[attr-defined]


def test_images_of_a_damaged_archive_are_refused(tmp_path: Path) -> None:
    file, images = tmp_path / "a.npz", numpy.arange(18 * 4 * 4 * 3, dtype=numpy.uint8).reshape(18, 4, 4, 3)
    numpy.savez(file, mu=MU, sigma=SIGMA, arr_0=images)
    found = read_statistics(file, "net", 3, "f").images
    assert found is not None
    read = torch.cat(list(found.batches(7)))
    assert torch.equal(read, torch.from_numpy(images).permute(0, 3, 1, 2))
    whole = file.read_bytes()
    at = whole.index(images.tobytes())
    file.write_bytes(whole[: at + 9] + b"\x00" + whole[at + 10 :])
    with pytest.raises(UsageError, match=r"arr_0 can't be read \(Bad CRC-32"):
        list(found.batches(7))
    numpy.savez(file, mu=MU, sigma=SIGMA, arr_0=numpy.zeros((2, 4, 4, 1), numpy.uint8))
    assert not read_statistics(file, "net", 3, "f").has_rows


def archive(**arrays: object) -> bytes:
    file = io.BytesIO()
    numpy.savez(file, **arrays)
    return file.getvalue()


def cut() -> bytes:
    whole, file = io.BytesIO(), io.BytesIO()
    numpy.save(whole, numpy.zeros(3))
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("mu.npy", whole.getvalue()[:-8])
    return file.getvalue()


MU, SIGMA = numpy.zeros(3), numpy.eye(3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an archive", "no archive with mu and sigma"),
        (archive(sigma=SIGMA), "no archive with mu and sigma"),
        (archive(mu=numpy.array([{}, 1, 2], dtype=object), sigma=SIGMA), "elements are Python objects"),
        (archive(mu=numpy.zeros(4), sigma=SIGMA), r"mu is float64 \(4,\), not floats of the shape \(3,\)"),
        (archive(mu=MU, sigma=numpy.asfortranarray(SIGMA + numpy.triu(SIGMA))), "Fortran"),
        (archive(mu=MU.astype("int64"), sigma=SIGMA), "mu is int64"),
        (cut(), "ends early"),
    ],
)
def test_archives_that_are_something_else_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_statistics(tmp_path / "a.npz", "net", 3, "f")


def test_statistics_of_another_network_or_not_finite_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    tensors = {"net/mean": torch.zeros(3), "net/covariance": torch.eye(3)}
    about = {"networks": '{"net": {"extractor": "f", "images": 40, "size": "16 px"}}'}
    save_file(tensors, file, about)
    assert read_statistics(file, "net", 3, "f").features is None
    for network, width, fingerprint, message in (
        ("other", 3, "f", "statistics of net, not of other"),
        ("net", 3, "g", "features of f, not of g"),
        ("net", 4, "f", r"net/mean is missing or not of the shape \(4,\)"),
    ):
        with pytest.raises(UsageError, match=message):
            read_statistics(file, network, width, fingerprint)
    for unread in ({"networks": '{"net": "f"}'}, {"networks": "[3"}):
        save_file(tensors, file, unread)
        with pytest.raises(UsageError, match="can't be read"):
            read_statistics(file, "net", 3, "f")
    save_file({**tensors, "net/mean": torch.full((3,), torch.nan)}, file, about)
    with pytest.raises(NumericError, match="not finite"):
        read_statistics(file, "net", 3, "f")
    for content in (b"", b"\xff" * 64):
        file.write_bytes(content)
        with pytest.raises(UsageError, match="can't be read"):
            read_statistics(file, "net", 3, "f")
    with pytest.raises(UsageError, match="no such file"):
        read_statistics(tmp_path / "none.npz", "net", 3, "f")
