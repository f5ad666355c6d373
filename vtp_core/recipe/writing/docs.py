"""Reads the docstring of each key from the source of its config class. Imports no torch.

Pydantic could read them when it builds a class, but that takes a third of the time of ``vtp validate``.
"""

from __future__ import annotations

import ast
import inspect
import textwrap

from pydantic import BaseModel


def key_docs(model: type[BaseModel]) -> dict[str, str]:
    """Field name -> ``Field(description=...)``, else the docstring below the field; others are left out."""
    docs: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            docs.update(_docstrings(base))
    docs.update({name: field.description for name, field in model.model_fields.items() if field.description})
    return {name: doc for name, doc in docs.items() if name in model.model_fields}


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Docstrings of the fields that a class declares itself."""
    try:
        source = textwrap.dedent(inspect.getsource(model))
    except (OSError, TypeError):
        return {}
    (definition,) = ast.parse(source).body
    if not isinstance(definition, ast.ClassDef):
        return {}
    docs = {}
    for statement, below in zip(definition.body, definition.body[1:], strict=False):
        match statement, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = inspect.cleandoc(text)
    return docs
