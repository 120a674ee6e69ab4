"""A model as ONNX Runtime has optimised it → the same with its 3 × 3 convolutions by Winograd's F(2 × 2, 3 × 3).

For 2 × 2 pixels of such a layer ONNX Runtime multiplies 36 times, `service/native/winograd.c` 16 times. That ONNX Runtime keeps
pictures in blocks of channels (its com.microsoft.nchwc operators) is seen once it has optimised a model. So its own nodes are
replaced, on their own blocks, and nothing is copied from one layout to another.

Source: Lavin, Gray: Fast Algorithms for Convolutional Neural Networks (2016), 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service import onnxgraph
from service.native.operators import DOMAIN, Operators
from service.onnxgraph import Node, Replacement, Weights

BLOCKED, KIND = "com.microsoft.nchwc", "WinogradConv"
PLACES = 16  # of a transformed tile
SIDE = 3
ALIGNMENT = 4096  # of weights in their file: pages can be mapped
TRANSFORM = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])  # G
PLAIN = {"kernel_shape": [SIDE, SIDE], "strides": [1, 1], "dilations": [1, 1], "group": 1, "auto_pad": b"NOTSET"}


def replace(model: bytes, folder: Path, weights: str, operators: Operators) -> bytes:
    """Replace what can be replaced; the transformed weights are written beside the model.

    Args:
        model: as ONNX Runtime saved it, optimised for this processor.
        folder: where its weights lie.
        weights: name of the file that is made there.
        operators: that this process has.
    Returns:
        A model that needs the operators' library; the same bytes where nothing was to be replaced.
    Raises:
        protobuf.Malformed: no such message.
        OSError: weights can't be read or written.
    """
    with open(folder / weights, "wb") as file:
        def change(node: Node, known: Mapping[str, Weights]) -> Replacement | None:
            found = [known.get(name) for name in node.inputs[1:]]
            if len(found) != 2 or found[0] is None or found[1] is None or not _fits(node, found[0], found[1], operators):
                return None
            made = transformed(_read(found[0], folder), operators)  # (groups, PLACES, channels, group)
            file.write(bytes(-file.tell() % ALIGNMENT))
            place = {"location": weights, "offset": str(file.tell()), "length": str(made.nbytes)}
            file.write(made.tobytes())
            name = f"{node.inputs[1]}/winograd"
            new = onnxgraph.node(KIND, [node.inputs[0], name, node.inputs[2]], node.outputs, node.name, DOMAIN)
            new += onnxgraph.attribute("lanes", operators.lanes)
            new += onnxgraph.attribute("pads", _pads(node))
            new += onnxgraph.attribute("relu", int("activation" in node.attributes))
            return Replacement([new], {name: onnxgraph.initializer(name, made.shape, place)})

        return onnxgraph.replaced(model, change, DOMAIN)


def _fits(node: Node, matrix: Weights, bias: Weights, operators: Operators) -> bool:
    attributes = node.attributes
    return (
        (node.domain, node.kind) == (BLOCKED, "Conv") and len(node.outputs) == 1
        and all(attributes.get(name, value) == value for name, value in PLAIN.items())
        and len(_pads(node)) == 4 and set(_pads(node)) <= {0, 1}
        and attributes.get("activation", b"Relu") == b"Relu"
        and matrix.dims[2:] == [SIDE, SIDE] and bias.dims == matrix.dims[:1]
        and matrix.dims[0] % operators.group == 0 and matrix.dims[1] % operators.lanes == 0
    )


def _pads(node: Node) -> list[int]:
    """Top, left, bottom, right."""
    pads = node.attributes.get("pads", [0] * 4)
    return pads if isinstance(pads, list) else []


def _read(weights: Weights, folder: Path) -> NDArray[np.float32]:
    """In the shape that is written there, the order that ONNX Runtime gave them."""
    if weights.raw:
        return np.frombuffer(weights.raw, np.float32).reshape(weights.dims)
    file, offset = folder / weights.outside["location"], int(weights.outside.get("offset", 0))
    return np.fromfile(file, np.float32, weights.size // onnxgraph.FLOAT_BYTES, offset=offset).reshape(weights.dims)


def transformed(weights: NDArray[np.float32], operators: Operators) -> NDArray[np.float32]:
    """u = G g Gᵀ of each filter and channel.

    Args:
        weights: (filters, channels, 3, 3) by its shape; in the order (filters / lanes, channels / lanes, 3, 3, lanes of channels,
            lanes of filters) in fact.
    Returns:
        (filters / group, 16, channels, group) float32.
    """
    (filters, channels), lanes = weights.shape[:2], operators.lanes
    blocks = weights.reshape(filters // lanes, channels // lanes, SIDE, SIDE, lanes, lanes)
    plain = blocks.transpose(2, 3, 1, 4, 0, 5).reshape(SIDE, SIDE, channels, filters).astype(np.float64)
    made = np.einsum("ai,bj,ijcf->abcf", TRANSFORM, TRANSFORM, plain, optimize=True)
    groups = made.reshape(PLACES, channels, filters // operators.group, operators.group).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(groups, np.float32)
