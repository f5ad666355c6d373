"""The format `timm`: the encoder as a folder for ``timm.create_model("local-dir:FOLDER")``."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from vtp_core.artefact.config import read_json
from vtp_core.artefact.folder import replace_folder
from vtp_core.artefact.weights import write_weights
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.pixels import IMAGENET_MEAN, IMAGENET_STD
from vtp_core.tokenizer import Tokenizer
from vtp_core.view import sides
from vtp_plugins.timm.encoder import TimmEncoder

MARK = "vtp_encoder_of"
"""Key of ``config.json`` with the name of the recipe."""


class TimmFormat:
    """Writes the encoder alone, under the names of timm's own architecture where it is one."""

    def matches(self, folder: Path) -> bool:
        """Whether ``config.json`` says that this format wrote it."""
        try:
            return MARK in read_json(folder / "config.json")
        except CheckpointError:
            return False

    def read(self, folder: Path) -> NoReturn:
        """An encoder alone is no tokenizer.

        Raises:
            CheckpointError: Always.
        """
        raise CheckpointError(
            f'{folder}: holds an encoder for timm, no tokenizer; use timm.create_model("local-dir:{folder}")'
        )

    def write(self, model: Tokenizer, folder: Path) -> None:
        """Writes ``config.json`` and ``model.safetensors``; warns of what is left out.

        Raises:
            UsageError: The tokenizer has no config, or `folder` holds something else.
        """
        if model.config is None or model.encoder.table is None:
            raise UsageError("format timm: the tokenizer has no config; build it with config=")
        architecture, arguments, state, pixels = _own(model) or _ours(model)
        height, width = sides(model.config.image_size)
        config = {
            "architecture": architecture,
            "num_classes": 0,
            "num_features": model.encoder.width,
            MARK: model.config.recipe,
            "model_args": arguments,
            "pretrained_cfg": {
                "input_size": [3, height, width],
                "fixed_input_size": model.encoder.only_size is not None,
                "interpolation": "bicubic",
                "crop_pct": 1.0,
                "num_classes": 0,
                "classifier": "head",
                **pixels,
            },
        }

        def fill(new: Path) -> None:
            write_weights(new / "model.safetensors", state)
            (new / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

        replace_folder(folder, fill, self.matches, ("model.safetensors", "config.json"))
        left = [part for part in ("bottleneck", "decoder") if getattr(model, part) is not None]
        warnings.warn(
            f"left out, as timm has encoders alone: {', '.join([*left, *model.exports])}", stacklevel=2
        )


_Parts = tuple[str, Mapping[str, Any], Mapping[str, Tensor], Mapping[str, Any]]


def _own(model: Tokenizer) -> _Parts | None:
    """Name in timm, arguments, weights, pixel statistics of its network; None: timm can't rebuild it."""
    encoder = model.encoder
    if not isinstance(encoder, TimmEncoder):
        return None
    import timm

    name, state = encoder.config.name.partition(".")[0], encoder.network.state_dict()
    given: dict[str, Any] = {"num_classes": 0, **encoder.config.options}
    # Stated, as timm would fit learned positions to images of another default size.
    if size := getattr(getattr(encoder.network, "patch_embed", None), "img_size", None):
        given["img_size"] = list(size)
    # Without its head the network has no attention pooling, which some have by default.
    for more in ({}, {"dynamic_img_size": True}, {"global_pool": ""}):
        arguments = {**given, **more}
        if "dynamic_img_size" not in more and getattr(encoder.network, "dynamic_img_size", False):
            arguments["dynamic_img_size"] = True
        try:
            with torch.device("meta"):
                rebuilt = timm.create_model(name, pretrained=False, **arguments).state_dict()
        except (TypeError, RuntimeError, ValueError, AssertionError) as error:
            logging.getLogger(__name__).debug("%s can't be built with %s: %s", name, arguments, error)
            continue
        if {key: value.shape for key, value in rebuilt.items()} == {k: v.shape for k, v in state.items()}:
            if encoder.residual is not None:
                warnings.warn("left out: the encoder's residual network", stacklevel=3)
            cfg = encoder.network.pretrained_cfg
            return name, arguments, state, {"mean": list(cfg["mean"]), "std": list(cfg["std"])}
    return None


def _ours(model: Tokenizer) -> _Parts:
    """The same for the architecture of `vtp_plugins.timm.models`."""
    assert model.encoder.table is not None
    table = model.encoder.table.restored().model_dump(mode="json", by_alias=True)
    state = {f"encoder.{name}": value for name, value in model.encoder.state_dict().items()}
    warnings.warn(
        "timm has no such architecture: `import vtp_plugins.timm.models` before timm.create_model",
        stacklevel=3,
    )
    return "vtp_encoder", {"encoder": table}, state, {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
