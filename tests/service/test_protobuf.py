"""The wire format, against the onnx package's own encoder."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from onnx import StringStringEntryProto, TensorProto

from service import protobuf


@given(st.text(max_size=300), st.lists(st.integers(0, 2**62), max_size=5), st.binary(max_size=300))
@hypothesis_settings(max_examples=50, deadline=None)
def test_fields_are_those_that_were_written(name, dims, raw):
    """Names, numbers and bytes of any length."""
    message = memoryview(TensorProto(name=name, dims=dims, raw_data=raw, data_type=1).SerializeToString())
    assert protobuf.text(message, 8) == name
    assert [value for number, value in protobuf.fields(message) if number == 1] == dims
    assert [bytes(view) for view in protobuf.views(message, 9)] == [raw]


def test_text_that_is_not_utf_8_is_told():
    """Never a UnicodeDecodeError."""
    with pytest.raises(protobuf.Malformed, match=r"field 3 holds text that is not UTF-8: .*0xff"):
        protobuf.text(memoryview(b"\x1a\x02\xff\xfe"), 3)


def test_pairs_become_a_dictionary():
    """That is how ONNX keeps metadata."""
    entries = [memoryview(StringStringEntryProto(key=key, value=key.upper()).SerializeToString()) for key in ("a", "b")]
    assert protobuf.pairs(entries) == {"a": "A", "b": "B"}


@pytest.mark.parametrize("message", [
    pytest.param(b"\x0a\x05ab", id="shorter than it says"),
    pytest.param(b"\x08", id="number without an end"),
    pytest.param(b"\x0b", id="group"),
    pytest.param(b"\x00\x00", id="field 0"),
    pytest.param(b"\x09\x00", id="short fixed number"),
])
def test_broken_messages_are_told(message):
    """Never an IndexError."""
    with pytest.raises(protobuf.Malformed):
        list(protobuf.fields(memoryview(message)))


@given(st.binary(max_size=60))
@hypothesis_settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_malformed(message):
    """Models come from anywhere."""
    with contextlib.suppress(protobuf.Malformed):
        list(protobuf.fields(memoryview(message)))
