"""Arithmetic in bfloat16 as float32 arithmetic that is rounded after each operation.

Runtimes of ONNX have few kernels for bfloat16, and the published VTP weights turn positions in it. torch on a
CPU widens each operand to float32, computes, and rounds: so does the program that is made here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Graph, Node


def without_bfloat16_arithmetic(program: ExportedProgram) -> ExportedProgram:
    """Changes the program in place; of operators on bfloat16 only casts remain."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        casts = node.target in (
            torch.ops.aten._to_copy.default,
            torch.ops.aten._assert_tensor_metadata.default,
        )
        if node.op == "call_function" and not casts and _is_narrow(node.meta.get("val")):
            _widen(graph, node)
    graph.lint()
    program.graph_module.recompile()
    return program


def _widen(graph: Graph, node: Node) -> None:
    with graph.inserting_before(node):
        node.args = torch.fx.map_arg(node.args, lambda each: _as_float32(graph, each))
    if node.kwargs.get("dtype") == torch.bfloat16:
        node.kwargs = {**node.kwargs, "dtype": torch.float32}
    narrow = node.meta["val"]
    if not isinstance(narrow, Tensor):  # of a split: the parts are taken out by nodes of their own
        node.meta = {**node.meta, "val": [_cast(part, torch.float32) for part in narrow]}
        return
    node.meta = {**node.meta, "val": _cast(narrow, torch.float32)}
    with graph.inserting_after(node):
        rounded = _to(graph, node, torch.bfloat16)
    node.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)


def _as_float32(graph: Graph, node: Node) -> Node:
    value = node.meta.get("val")
    return _to(graph, node, torch.float32) if isinstance(value, Tensor) and _is_narrow(value) else node


def _is_narrow(value: Any) -> bool:
    parts = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(part, Tensor) and part.dtype == torch.bfloat16 for part in parts)


def _to(graph: Graph, node: Node, dtype: torch.dtype) -> Node:
    cast = graph.call_function(torch.ops.aten._to_copy.default, (node,), {"dtype": dtype})
    cast.meta = {"val": _cast(node.meta["val"], dtype)}
    return cast


def _cast(value: Any, dtype: torch.dtype) -> Any:
    with value.fake_mode:
        return value.to(dtype)
