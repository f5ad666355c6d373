"""Offers the formats `onnx` and `torch_export`."""

import vtp_core as vtp

vtp_api = 2


@vtp.hookimpl
def register_formats(register: vtp.Register) -> None:
    """The calls of a tokenizer as programs."""
    register(
        "onnx",
        "vtp_plugins.onnx.format:OnnxFormat",
        summary="A tokenizer's calls as ONNX files, compared in onnxruntime when they are written.",
    )
    register(
        "torch_export",
        "vtp_plugins.onnx.format:TorchExportFormat",
        summary="A tokenizer's calls as torch.export programs (.pt2), which run without this framework.",
    )
