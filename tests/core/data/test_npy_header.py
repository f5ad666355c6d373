"""The reader of ``.npy`` headers: NumPy's files, damaged ones, no evaluation."""

from __future__ import annotations

import ast
import io
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, scalar_dtypes
from numpy.lib import format as npy

from vtp_core.data.npy_header import read_npy_header

PLAIN = scalar_dtypes().filter(lambda dtype: dtype.kind in "biufcSV" and dtype.itemsize < 100)


def header(shape: tuple[int, ...], dtype: numpy.dtype[Any], fortran: bool, version: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    fields = {"descr": npy.dtype_to_descr(dtype), "fortran_order": fortran, "shape": shape}
    writer = npy.write_array_header_1_0 if version == (1, 0) else npy.write_array_header_2_0
    writer(file, fields)
    return file.getvalue()


@given(
    shape=array_shapes(min_dims=0, max_dims=6, min_side=0, max_side=2**40),
    dtype=PLAIN,
    fortran=st.booleans(),
    version=st.sampled_from([(1, 0), (2, 0)]),
)
def test_headers_that_numpy_writes(
    shape: tuple[int, ...], dtype: numpy.dtype[Any], fortran: bool, version: tuple[int, int]
) -> None:
    content = header(shape, dtype, fortran, version)
    file = io.BytesIO(content + b"data")
    read = read_npy_header(file)
    assert (read.shape, read.dtype, read.fortran_order) == (shape, dtype, fortran)
    assert file.read() == b"data"


@pytest.mark.parametrize("spaces", ["", " ", "\n  "])
def test_headers_of_other_writers(spaces: str) -> None:
    text = "{'shape': (2,3),'fortran_order':False, 'descr': '<f4'}".replace(" ", spaces)
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    read = read_npy_header(io.BytesIO(content))
    assert (read.shape, read.dtype, read.fortran_order) == ((2, 3), numpy.dtype("<f4"), False)


@pytest.mark.parametrize("dtype", [[("a", "<f4")], [("a", "<f4", (2,)), ("b", "<u2")], "O"], ids=str)
def test_elements_with_fields_and_objects_are_refused(dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"\.npy header"):
        read_npy_header(io.BytesIO(header((1,), numpy.dtype(dtype), False, (1, 0))))


@given(data=st.data())
def test_damage_is_a_value_error_or_a_plain_header(data: st.DataObject) -> None:
    content = bytearray(header((6, 2, 2), numpy.dtype("<f4"), False, (1, 0)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)))
    try:
        read = read_npy_header(io.BytesIO(bytes(content[:end])))
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 200
    else:
        assert read.dtype.names is None and all(size >= 0 for size in read.shape)


def test_nothing_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11's ast raises SystemError in some of the threads that parse at once."""

    def refuse(*_: object, **__: object) -> None:
        raise SystemError("AST constructor recursion depth mismatch")

    content = header((6, 2, 2), numpy.dtype("<f4"), False, (1, 0))
    monkeypatch.setattr(ast, "parse", refuse)
    assert read_npy_header(io.BytesIO(content)).shape == (6, 2, 2)
