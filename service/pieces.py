"""A model's bytes → the same network with its largest fully connected layers in pieces, one below the other.

ONNX Runtime orders a layer's weights each time it makes a session, also those that it finds ordered on disk, and has both copies
in its hands meanwhile: of AlexNet's largest layer twice 151 MB. Of a piece that is twice a piece. The rows of a `Gemm` with
transB lie one after the other in the file, so that a piece is an offset and a length there: no weight is copied.

Source: onnx.proto for the fields; ONNX operators Gemm and Concat.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from service import protobuf
from service.protobuf import BYTES, FIXED32, VARINT, Field

MOST_BYTES = 8 * 2**20  # of a piece, about
ROWS = 16  # a piece's rows are a multiple: the widest registers hold so many
FLOAT, FLOAT_BYTES, EXTERNAL = 1, 4, 1
PLAIN = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}  # attributes of a Gemm that can be cut

MODEL_GRAPH = 7
NODE, INITIALIZER = 1, 5  # of GraphProto
INPUT, OUTPUT, NAME, OP_TYPE, ATTRIBUTE, DOMAIN = 1, 2, 3, 4, 5, 7  # of NodeProto
DIMS, DATA_TYPE, TENSOR_NAME, RAW, OUTSIDE, LOCATION = 1, 2, 8, 9, 13, 14  # of TensorProto


class _Weights(NamedTuple):
    """An initializer of float32, as far as it matters here."""

    dims: list[int]
    raw: memoryview  # what lies in the model itself
    outside: dict[str, str]  # where the rest lies: location, offset, length

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.raw) or int(self.outside.get("length", 0))

    def piece(self, name: str, first: int, rows: int) -> bytes:
        """A TensorProto of some of its rows."""
        each = self.size // self.dims[0]
        fields = [protobuf.integer(DIMS, size) for size in (rows, *self.dims[1:])]
        fields += [protobuf.integer(DATA_TYPE, FLOAT), protobuf.bytes_of(TENSOR_NAME, name.encode())]
        if self.raw:
            fields.append(protobuf.bytes_of(RAW, bytes(self.raw[first * each:(first + rows) * each])))
        else:
            offset = int(self.outside.get("offset", 0)) + first * each
            place = {"location": self.outside["location"], "offset": str(offset), "length": str(rows * each)}
            fields += [protobuf.bytes_of(OUTSIDE, protobuf.pair(key, value)) for key, value in place.items()]
            fields.append(protobuf.integer(LOCATION, EXTERNAL))
        return b"".join(fields)


def cut(model: bytes, most: int = MOST_BYTES) -> bytes:
    """Cut each `Gemm` whose weights lie outside of the model and are larger.

    Args:
        model: an ONNX model.
        most: bytes of a piece.
    Returns:
        A model that gives the same; the same bytes where nothing was to be cut.
    Raises:
        protobuf.Malformed: no such message.
    """
    fields = list(protobuf.raw(memoryview(model)))
    graphs = [place for place, field in enumerate(fields) if field.number == MODEL_GRAPH]
    changed = _graph(fields[graphs[0]].content, most) if len(graphs) == 1 else None
    if changed is None:
        return model
    fields[graphs[0]] = Field(MODEL_GRAPH, BYTES, memoryview(changed))
    return b"".join(map(protobuf.encoded, fields))


def _graph(graph: memoryview, most: int) -> bytes | None:
    """Of a GraphProto; None where nothing is to be cut."""
    fields = list(protobuf.raw(graph))
    weights = {name: tensor for name, tensor in (_read(each.content) for each in fields if each.number == INITIALIZER) if tensor}
    made: list[bytes] = []
    pieces: dict[str, bytes] = {}
    for field in fields:
        parts = list(_nodes(field.content, weights, most, pieces)) if field.number == NODE else []
        made += [protobuf.bytes_of(NODE, part) for part in parts] or [protobuf.encoded(field)]
    made += [protobuf.bytes_of(INITIALIZER, piece) for piece in pieces.values()]
    return b"".join(made) if pieces else None


def _nodes(node: memoryview, weights: dict[str, _Weights], most: int, pieces: dict[str, bytes]) -> Iterator[bytes]:
    """The nodes that take the place of one, a Gemm each and a Concat; nothing where it stays. Their weights go to `pieces`."""
    inputs = [bytes(value).decode() for value in protobuf.views(node, INPUT)]
    if protobuf.text(node, OP_TYPE) != "Gemm" or protobuf.text(node, DOMAIN) or not _plain(node):
        return
    found = [weights.get(name) for name in inputs[1:]]
    matrix = found[0]
    if matrix is None or None in found or len(matrix.dims) != 2 or matrix.raw or matrix.size <= most:
        return
    rows = matrix.dims[0]
    if any(each is not None and each.dims != [rows] for each in found[1:]):
        return
    count = -(-matrix.size // most)
    step = -(-rows // (count * ROWS)) * ROWS
    name, (output,) = protobuf.text(node, NAME), [bytes(value).decode() for value in protobuf.views(node, OUTPUT)]
    attributes = b"".join(protobuf.bytes_of(ATTRIBUTE, bytes(value)) for value in protobuf.views(node, ATTRIBUTE))
    outputs = []
    for first in range(0, rows, step):
        last = min(first + step, rows)
        suffix = f"/rows {first} to {last}"
        for source, each in zip(inputs[1:], found, strict=True):
            if each is not None:
                pieces[source + suffix] = each.piece(source + suffix, first, last - first)
        outputs.append(output + suffix)
        yield _node("Gemm", [inputs[0], *(source + suffix for source in inputs[1:])], outputs[-1], name + suffix) + attributes
    axis = protobuf.bytes_of(1, b"axis") + protobuf.integer(3, 1) + protobuf.integer(20, 2)  # AttributeProto of type INT
    yield _node("Concat", outputs, output, f"{name}/rows") + protobuf.bytes_of(ATTRIBUTE, axis)


def _node(kind: str, inputs: list[str], output: str, name: str) -> bytes:
    fields = [*((INPUT, each) for each in inputs), (OUTPUT, output), (NAME, name), (OP_TYPE, kind)]
    return b"".join(protobuf.bytes_of(number, text.encode()) for number, text in fields)


def _plain(node: memoryview) -> bool:
    """A Gemm's rows of weights are rows of its own, and nothing is scaled."""
    found: dict[str, float] = {"transB": 0}
    for attribute in protobuf.views(node, ATTRIBUTE):
        for field in protobuf.raw(attribute):
            if (field.number, field.wire) == (3, VARINT):
                found[protobuf.text(attribute, 1)] = field.integer
            elif (field.number, field.wire) == (2, FIXED32):
                found[protobuf.text(attribute, 1)] = protobuf.float32(field.content)
    return all(PLAIN.get(name) == value for name, value in found.items())


def _read(tensor: memoryview) -> tuple[str, _Weights | None]:
    """Name and content of a TensorProto; None for other types than float32, and other ways to hold them."""
    fields = list(protobuf.raw(tensor))
    kind = [field.integer for field in fields if field.number == DATA_TYPE]
    dims = [size for field in fields if field.number == DIMS for size in protobuf.integers(field)]
    outside = protobuf.pairs(protobuf.views(tensor, OUTSIDE))
    raw = next(protobuf.views(tensor, RAW), tensor[:0])
    found = _Weights(dims, raw, outside)
    whole = kind == [FLOAT] and bool(dims) and min(dims) > 0 and found.size == FLOAT_BYTES * math.prod(dims)
    return protobuf.text(tensor, TENSOR_NAME), found if whole and (raw or "location" in outside) else None
