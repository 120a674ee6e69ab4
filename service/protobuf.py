"""Just enough of the protocol buffers wire format to read what a model says of itself, and to find its weights.

A whole ONNX package, or a session, would cost half a second and the memory of the weights.
Source: protobuf.dev, "Encoding"; field numbers from onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Malformed(ValueError):
    """The bytes are not a protocol buffers message."""


class Field(NamedTuple):
    """One of a message, as it is written.

    Attributes:
        wire: its type there.
        content: a view into the message, not a copy; empty for a varint.
        integer: of a varint.
    """

    number: int
    wire: int
    content: memoryview
    integer: int = 0


def raw(message: memoryview) -> Iterator[Field]:
    """Each field in order.

    Raises:
        Malformed: at the first field that can't be read.
    """
    position, end = 0, len(message)
    while position < end:
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise Malformed(f"field number 0 at byte {position}")
        if wire == VARINT:
            value, position = _varint(message, position)
            yield Field(number, wire, message[:0], value)
            continue
        if wire == BYTES:
            length, position = _varint(message, position)
        elif wire in (FIXED64, FIXED32):
            length = 8 if wire == FIXED64 else 4
        else:
            raise Malformed(f"wire type {wire} at byte {position}")
        if position + length > end:
            raise Malformed(f"field {number} claims {length} bytes, {end - position} are left")
        yield Field(number, wire, message[position : position + length])
        position += length


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of each field in order; everything but a varint is a view into the message, not a copy.

    Raises:
        Malformed: as `raw`.
    """
    for field in raw(message):
        yield field.number, field.integer if field.wire == VARINT else field.content


def views(message: memoryview, number: int) -> Iterator[memoryview]:
    """All values of one field that are messages, strings or bytes."""
    for found, value in fields(message):
        if found == number and not isinstance(value, int):
            yield value


def text(message: memoryview, number: int) -> str:
    """The last value of a string field; empty if there is none.

    Raises:
        Malformed: it is not UTF-8.
    """
    last = message[:0]
    for value in views(message, number):
        last = value
    return _decoded(last, number)


def pairs(messages: Iterable[memoryview]) -> dict[str, str]:
    """StringStringEntryProto messages (key = 1, value = 2) as a dictionary."""
    return {text(entry, 1): text(entry, 2) for entry in messages}


def _decoded(content: memoryview, number: int) -> str:
    try:
        return str(content, "utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(f"field {number} holds text that is not UTF-8: {error}") from error


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise Malformed(f"number at byte {position} has no end")
