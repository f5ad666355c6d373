"""The formats `onnx` and `torch_export`: folders with one program a call."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.export import ExportedProgram

import vtp_core
from vtp_core.artefact.config import ArtefactConfig, read_json
from vtp_core.artefact.fingerprint import name_of
from vtp_core.artefact.folder import replace_folder
from vtp_core.artefact.sums import SUMS, write_sums
from vtp_core.errors import CheckpointError, UsageError
from vtp_core.tokenizer import Tokenizer
from vtp_plugins.clip.text import TextTower
from vtp_plugins.onnx.calls import CALLS, Call, calls_of
from vtp_plugins.onnx.comparison import Run, compare
from vtp_plugins.onnx.trace import first_line, quiet, trace

PACKAGES = ("onnx", "onnxruntime", "onnxscript")


class TorchExportFormat:
    """Writes ``encode.pt2``, ``decode.pt2``, ...: programs of ``torch.export``.

    Attributes:
        holds_statistics: ``config.json`` has those of the latents.
        name: ``format`` of its ``config.json``.
    """

    holds_statistics = True
    name = "vtp-torch-export"

    def matches(self, folder: Path) -> bool:
        """Whether ``config.json`` says that this format wrote it."""
        return _format_of(folder) == self.name

    def read(self, folder: Path) -> NoReturn:
        """Programs have no networks to load.

        Raises:
            CheckpointError: Always.
        """
        raise CheckpointError(
            f"{folder}: holds programs ({self.name}), no networks; load the tokenizer that they were made of"
        )

    def write(self, model: Tokenizer, folder: Path) -> None:
        """Writes the programs, compares each with the tokenizer, and writes ``config.json``.

        Raises:
            UsageError: A call can't be traced or gives other numbers; or `folder` holds something else.
        """
        if model.device.type != "cpu" or model.training:
            raise UsageError(f"format {self.name}: needs a tokenizer on the CPU in evaluation mode")

        def fill(new: Path) -> None:
            facts = {call.name: self._write(call, new) for call in calls_of(model)}
            text = json.dumps(_config(self.name, model, facts), indent=2) + "\n"
            (new / "config.json").write_text(text, encoding="utf-8")
            write_sums(new, [path.name for path in new.iterdir()])

        programs = [f"{name}.{self.suffix}{more}" for name in CALLS for more in ("", ".data")]
        replace_folder(folder, fill, self.matches, (*programs, "config.json", SUMS))

    def _write(self, call: Call, folder: Path) -> dict[str, Any]:
        path = folder / f"{call.name}.{self.suffix}"
        run = self._save(call, trace(call), path)
        return {
            "file": path.name,
            "input": call.input,
            "outputs": list(call.outputs),
            "largest_difference": compare(call, run),
        }

    suffix = "pt2"

    def _save(self, call: Call, program: ExportedProgram, path: Path) -> Run:
        with quiet():
            torch.export.save(program, path)
            module = torch.export.load(path).module()
        return lambda value: [output.numpy() for output in module(value)]


class OnnxFormat(TorchExportFormat):
    """Writes ``encode.onnx``, ``decode.onnx``, ...: the same programs in ONNX, compared in onnxruntime."""

    name = "vtp-onnx"
    suffix = "onnx"

    def check_packages(self) -> None:
        """Whether ONNX can be written here.

        Raises:
            UsageError: A package is missing.
        """
        if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
            raise UsageError(f"format onnx: {', '.join(missing)} not installed: pip install 'vtp-core[onnx]'")

    def write(self, model: Tokenizer, folder: Path) -> None:
        """As `TorchExportFormat.write`.

        Raises:
            UsageError: Also, a package is missing or ONNX lacks an operator.
        """
        self.check_packages()
        super().write(model, folder)

    def _save(self, call: Call, program: ExportedProgram, path: Path) -> Run:
        import onnxruntime

        try:
            with quiet():
                written = torch.onnx.export(
                    program,
                    dynamo=True,
                    input_names=[call.input],
                    output_names=list(call.outputs),
                    verbose=False,
                )
                assert written is not None
                written.save(str(path))
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # torch.onnx and onnxruntime raise anything
            raise UsageError(
                f"format onnx: {call.name} can't be written: {first_line(error)}; "
                "--format torch_export holds what ONNX has no operators for"
            ) from error
        return lambda value: session.run(None, {call.input: value.numpy()})


def _format_of(folder: Path) -> object:
    try:
        return read_json(folder / "config.json").get("format")
    except CheckpointError:
        return None


def _config(name: str, model: Tokenizer, calls: Mapping[str, Any]) -> dict[str, Any]:
    """What a user of the programs needs to know of the tokenizer."""
    facts: dict[str, Any] = {
        "format": name,
        "format_version": 1,
        "vtp_version": vtp_core.__version__,
        "patch": model.encoder.patch,
        "latent_channels": model.latent_channels,
        "codebook_sizes": list(model.bottleneck.codebook_sizes),
    }
    if isinstance(model.config, ArtefactConfig):
        kept = ("recipe", "step", "image_size", "input_range", "image_mean", "image_std", "latents_mean")
        more = ("latents_std", "scaling_factor", "latents_stats_protocol")
        whole = model.config.model_dump(mode="json")
        facts |= {key: whole[key] for key in (*kept, *more)}
        facts["fingerprint"] = name_of(model).fingerprint
    tower = model.exports["embed_text"] if "embed_text" in model.exports else None
    if isinstance(tower, TextTower):
        facts["text"] = {"context": tower.positions.shape[0], "merges": tower.tokenizer.merges}
    return {**facts, "calls": dict(calls)}
