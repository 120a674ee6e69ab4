"""A model's bytes → the same network with its largest fully connected layers in pieces, one below the other.

ONNX Runtime orders a layer's weights each time it makes a session, also those that it finds ordered on disk, and has both copies
in its hands meanwhile: of AlexNet's largest layer twice 151 MB. Of a piece that is twice a piece. The rows of a `Gemm` with
transB lie one after the other in the file, so that a piece is an offset and a length there: no weight is copied.

Source: ONNX operators Gemm and Concat.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from service import onnxgraph, protobuf
from service.onnxgraph import Node, Replacement, Weights

MOST_BYTES = 8 * 2**20  # of a piece, about
ROWS = 16  # a piece's rows are a multiple: the widest registers hold so many
PLAIN = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}  # attributes of a Gemm that can be cut


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
    return onnxgraph.replaced(model, functools.partial(_cut, most))


def _cut(most: int, node: Node, weights: Mapping[str, Weights]) -> Replacement | None:
    """A Gemm for each piece, and a Concat."""
    if node.kind != "Gemm" or node.domain or not _plain(node):
        return None
    found = [weights.get(name) for name in node.inputs[1:]]
    matrix = found[0]
    if matrix is None or None in found or len(matrix.dims) != 2 or matrix.raw or matrix.size <= most:
        return None
    rows = matrix.dims[0]
    if any(each is not None and each.dims != [rows] for each in found[1:]):
        return None
    count = -(-matrix.size // most)
    step = -(-rows // (count * ROWS)) * ROWS
    attributes = b"".join(protobuf.bytes_of(onnxgraph.ATTRIBUTE, bytes(value))
                          for value in protobuf.views(node.content, onnxgraph.ATTRIBUTE))
    made, outputs, pieces = [], [], {}
    for first in range(0, rows, step):
        last = min(first + step, rows)
        suffix = f"/rows {first} to {last}"
        for source, each in zip(node.inputs[1:], found, strict=True):
            if each is not None:
                pieces[source + suffix] = _piece(each, source + suffix, first, last - first)
        outputs.append(node.outputs[0] + suffix)
        inputs = [node.inputs[0], *(source + suffix for source in node.inputs[1:])]
        made.append(onnxgraph.node("Gemm", inputs, outputs[-1:], node.name + suffix) + attributes)
    made.append(onnxgraph.node("Concat", outputs, node.outputs, f"{node.name}/rows") + onnxgraph.attribute("axis", 1))
    return Replacement(made, pieces)


def _piece(weights: Weights, name: str, first: int, rows: int) -> bytes:
    """A TensorProto of some of its rows."""
    each, dims = weights.size // weights.dims[0], [rows, *weights.dims[1:]]
    if weights.raw:
        return onnxgraph.initializer(name, dims, bytes(weights.raw[first * each:(first + rows) * each]))
    offset = int(weights.outside.get("offset", 0)) + first * each
    return onnxgraph.initializer(name, dims, {
        "location": weights.outside["location"], "offset": str(offset), "length": str(rows * each)})


def _plain(node: Node) -> bool:
    """A Gemm's rows of weights are rows of its own, and nothing is scaled."""
    found = {"transB": 0} | {name: value for name, value in node.attributes.items() if isinstance(value, float | int)}
    return all(PLAIN.get(name) == value for name, value in found.items())
