"""Nodes and weights of an ONNX model, and the same model with some of its nodes replaced.

Without the package `onnx`, which costs a start half a second and the memory of the weights (see `protobuf`).
Source: onnx.proto for the fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from service import protobuf
from service.protobuf import BYTES, FIXED32, VARINT, Field

FLOAT, BYTE = 1, 2  # TensorProto.DataType
FLOAT_BYTES, EXTERNAL = 4, 1

MODEL_GRAPH, OPSET = 7, 8  # of ModelProto
NODE, INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 1, 5, 11, 12  # of GraphProto
VALUE_NAME, VALUE_TYPE, TENSOR_TYPE, ELEMENT_TYPE = 1, 2, 1, 1  # of ValueInfoProto and TypeProto
INPUT, OUTPUT, NAME, OP_TYPE, ATTRIBUTE, DOMAIN = 1, 2, 3, 4, 5, 7  # of NodeProto
DIMS, DATA_TYPE, TENSOR_NAME, RAW, OUTSIDE, LOCATION = 1, 2, 8, 9, 13, 14  # of TensorProto
A_NAME, A_FLOAT, A_INT, A_BYTES, A_INTS, A_TYPE = 1, 2, 3, 4, 8, 20  # of AttributeProto
TYPE_INT, TYPE_INTS = 2, 7  # of an attribute

Value = float | int | bytes | list[int]


class Weights(NamedTuple):
    """An initializer of float32, as far as it matters here."""

    dims: list[int]
    raw: memoryview  # what lies in the model itself
    outside: dict[str, str]  # where the rest lies: location, offset, length

    @property
    def size(self) -> int:
        """Bytes; -1 where the model tells no whole number.

        A number of more than 4,300 digits is none for Python.
        """
        try:
            return len(self.raw) or int(self.outside.get("length", 0))
        except ValueError:
            return -1


class Node:
    """One node of a graph.

    Attributes:
        content: a NodeProto; `protobuf.Malformed` where it can't be read as one.
        name, kind, domain: `kind` is its operator's name.
        inputs, outputs: names of values.
    """

    def __init__(self, content: memoryview) -> None:
        self.content = content
        self.name, self.kind, self.domain = (protobuf.text(content, number) for number in (NAME, OP_TYPE, DOMAIN))
        self.inputs, self.outputs = (protobuf.texts(content, number) for number in (INPUT, OUTPUT))

    @cached_property
    def attributes(self) -> dict[str, Value]:
        """By name; numbers, texts as bytes, and lists of whole numbers, an empty one for any other type.

        Raises:
            protobuf.Malformed: an attribute can't be read.
        """
        found: dict[str, Value] = {}
        for attribute in protobuf.views(self.content, ATTRIBUTE):
            integers: list[int] = []
            value: Value = integers
            for field in protobuf.raw(attribute):
                if (field.number, field.wire) == (A_INT, VARINT):
                    value = field.integer
                elif (field.number, field.wire) == (A_FLOAT, FIXED32):
                    value = protobuf.float32(field.content)
                elif (field.number, field.wire) == (A_BYTES, BYTES):
                    value = bytes(field.content)
                elif field.number == A_INTS and value is integers:
                    integers.extend(protobuf.integers(field))
            found[protobuf.text(attribute, A_NAME)] = value
        return found


class Replacement(NamedTuple):
    """What takes a node's place: NodeProto messages, and TensorProto messages by name that they need."""

    nodes: list[bytes]
    initializers: dict[str, bytes]


def ends(model: bytes) -> tuple[list[str], list[str]]:
    """Names of what a model's graph is given, other than its initializers, and of what it gives.

    Raises:
        protobuf.Malformed: no such message.
    """
    found: tuple[list[str], list[str]] = ([], [])
    for graph in protobuf.views(memoryview(model), MODEL_GRAPH):
        known = {protobuf.text(tensor, TENSOR_NAME) for tensor in protobuf.views(graph, INITIALIZER)}
        for names, number in zip(found, (GRAPH_INPUT, GRAPH_OUTPUT), strict=True):
            names += [name for value in protobuf.views(graph, number) if (name := protobuf.text(value, VALUE_NAME)) not in known]
    return found


def part(model: bytes, nodes: Container[str], output: str, kind: int) -> bytes:
    """A model of some of the nodes alone.

    Args:
        nodes: first outputs of those that stay.
        output: the one value that comes out, of this data type.
    Raises:
        protobuf.Malformed: no such message.
    """
    made = []
    for field in protobuf.raw(memoryview(model)):
        if field.number != MODEL_GRAPH:
            made.append(protobuf.encoded(field))
            continue
        kept = [each for each in protobuf.raw(field.content) if each.number != GRAPH_OUTPUT
                and (each.number != NODE or any(output in nodes for output in Node(each.content).outputs[:1]))]
        tensor = protobuf.bytes_of(TENSOR_TYPE, protobuf.integer(ELEMENT_TYPE, kind))
        value = protobuf.bytes_of(VALUE_NAME, output.encode()) + protobuf.bytes_of(VALUE_TYPE, tensor)
        graph = b"".join(map(protobuf.encoded, kept)) + protobuf.bytes_of(GRAPH_OUTPUT, value)
        made.append(protobuf.bytes_of(MODEL_GRAPH, graph))
    return b"".join(made)


def replaced(
    model: bytes, change: Callable[[Node, Mapping[str, Weights]], Replacement | None], domain: str | None = None,
) -> bytes:
    """Replace nodes; all else stays, initializers that nothing uses any more too.

    Args:
        model: an ONNX model.
        change: what takes a node's place, given that and the initializers of float32 by name; None: it stays.
        domain: of operators that are new, in version 1.
    Returns:
        The model; the same bytes where nothing was replaced.
    Raises:
        protobuf.Malformed: no such message.
    """
    fields = list(protobuf.raw(memoryview(model)))
    graphs = [place for place, field in enumerate(fields) if field.number == MODEL_GRAPH]
    changed = _graph(fields[graphs[0]].content, change) if len(graphs) == 1 else None
    if changed is None:
        return model
    fields[graphs[0]] = Field(MODEL_GRAPH, BYTES, memoryview(changed))
    made = b"".join(map(protobuf.encoded, fields))
    if domain is not None and domain not in [protobuf.text(field.content, 1) for field in fields if field.number == OPSET]:
        made += protobuf.bytes_of(OPSET, protobuf.bytes_of(1, domain.encode()) + protobuf.integer(2, 1))
    return made


def nodes(model: bytes) -> Iterator[tuple[Node, Mapping[str, Weights]]]:
    """Each node of a model, and the initializers of float32 by name.

    Raises:
        protobuf.Malformed: no such message.
    """
    for graph in protobuf.views(memoryview(model), MODEL_GRAPH):
        weights = _weights(graph)
        for content in protobuf.views(graph, NODE):
            yield Node(content), weights


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], name: str, domain: str = "") -> bytes:
    """A NodeProto without attributes; these may follow."""
    fields = [*((INPUT, each) for each in inputs), *((OUTPUT, each) for each in outputs), (NAME, name), (OP_TYPE, kind)]
    fields += [(DOMAIN, domain)] if domain else []
    return b"".join(protobuf.bytes_of(number, text.encode()) for number, text in fields)


def attribute(name: str, value: int | Sequence[int]) -> bytes:
    """One of a NodeProto."""
    if isinstance(value, int):
        content = protobuf.integer(A_INT, value) + protobuf.integer(A_TYPE, TYPE_INT)
    else:
        content = b"".join(protobuf.integer(A_INTS, each) for each in value) + protobuf.integer(A_TYPE, TYPE_INTS)
    return protobuf.bytes_of(ATTRIBUTE, protobuf.bytes_of(A_NAME, name.encode()) + content)


def initializer(name: str, dims: Sequence[int], content: bytes | dict[str, str], kind: int = FLOAT) -> bytes:
    """A TensorProto of one data type: its bytes, or where they lie (location, offset, length)."""
    fields = [protobuf.integer(DIMS, size) for size in dims]
    fields += [protobuf.integer(DATA_TYPE, kind), protobuf.bytes_of(TENSOR_NAME, name.encode())]
    if isinstance(content, bytes):
        fields.append(protobuf.bytes_of(RAW, content))
    else:
        fields += [protobuf.bytes_of(OUTSIDE, protobuf.pair(key, value)) for key, value in content.items()]
        fields.append(protobuf.integer(LOCATION, EXTERNAL))
    return b"".join(fields)


def _graph(graph: memoryview, change: Callable[[Node, Mapping[str, Weights]], Replacement | None]) -> bytes | None:
    """Of a GraphProto; None where nothing is replaced."""
    fields = list(protobuf.raw(graph))
    weights = _weights(graph)
    made: list[bytes] = []
    added: dict[str, bytes] = {}
    any_replaced = False
    for field in fields:
        replacement = change(Node(field.content), weights) if field.number == NODE else None
        if replacement is None:
            made.append(protobuf.encoded(field))
            continue
        any_replaced = True
        made += [protobuf.bytes_of(NODE, each) for each in replacement.nodes]
        added |= replacement.initializers
    made += [protobuf.bytes_of(INITIALIZER, each) for each in added.values()]
    return b"".join(made) if any_replaced else None


def _weights(graph: memoryview) -> dict[str, Weights]:
    return {name: tensor for name, tensor in map(_read, protobuf.views(graph, INITIALIZER)) if tensor}


def _read(tensor: memoryview) -> tuple[str, Weights | None]:
    """Name and content of a TensorProto; None for other types than float32, and other ways to hold them."""
    fields = list(protobuf.raw(tensor))
    kind = [field.integer for field in fields if field.number == DATA_TYPE]
    dims = [size for field in fields if field.number == DIMS for size in protobuf.integers(field)]
    outside = protobuf.pairs(protobuf.views(tensor, OUTSIDE))
    raw = next(protobuf.views(tensor, RAW), tensor[:0])
    found = Weights(dims, raw, outside)
    whole = kind == [FLOAT] and bool(dims) and min(dims) > 0 and found.size == FLOAT_BYTES * math.prod(dims)
    return protobuf.text(tensor, TENSOR_NAME), found if whole and (raw or "location" in outside) else None
