"""The front of a graph: from uint8 pixels to the network's own input. Its nodes are named `quadrant/…`.

Mean and scale of three channels that lie side by side are slow: ONNX Runtime takes them three numbers at a time (3.1 ms for
a picture of 224 × 224, beside 10 ms for all of int8 AlexNet). Spread along a row of the picture, or with the channels
apart, they take 0.2 ms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

INPUT = "pixels"
ADDED = "quadrant/"
APART = [0, 3, 1, 2]  # (N, height, width, 3) → (N, 3, height, width)


@dataclass(frozen=True)
class Front:
    """How pixels become the network's own input.

    Attributes:
        height, width: of the input in pixels.
        mean, std: of red, green and blue on the 0-1 scale: (value / 255 - mean) / std.
        channels_last: the network takes (batch, height, width, 3) instead of (batch, 3, height, width).
        bgr: the network takes blue first; `mean` and `std` are of red, green and blue all the same.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels_last: bool = False
    bgr: bool = False


def nodes(front: Front, name: str, precision: int, constants: list[TensorProto]) -> Iterator[NodeProto]:
    """The nodes from `INPUT` to a tensor of this name.

    Args:
        precision: of the network's own input, as `TensorProto.DataType`.
        constants: what the nodes need is added here.
    """
    steps = _Steps(constants)
    shift = np.asarray(front.mean, np.float64) * 255
    scale = 1 / (np.asarray(front.std, np.float64) * 255)
    if front.bgr:
        shift, scale = shift[::-1], scale[::-1]
    if not front.channels_last:
        steps.add("layout", "Transpose", perm=APART)  # bytes, not floats: a quarter of the memory moves
    if front.bgr:
        steps.add("channels", "Gather", np.asarray([2, 1, 0], np.int64), axis=3 if front.channels_last else 1)
    if front.channels_last:
        steps.add("rows", "Reshape", np.asarray([0, front.height, 3 * front.width], np.int64))
    steps.add("cast", "Cast", to=TensorProto.FLOAT)
    for step, kind, idle, values in (("mean", "Sub", 0, shift), ("std", "Mul", 1, scale)):
        if (values != idle).any():
            spread = _row(values, front.width) if front.channels_last else values.astype(np.float32).reshape(3, 1, 1)
            steps.add(step, kind, spread)
    if precision != TensorProto.FLOAT:
        steps.add("half", "Cast", to=precision)
    if front.channels_last:
        steps.add("pixels", "Reshape", np.asarray([0, front.height, front.width, 3], np.int64))
    yield from steps.end(name)


def along_rows(model: ModelProto) -> None:
    """In a quantised graph, normalise before the channels come apart; in place. Gives the same bytes.

    int8 convolutions take the channels side by side. ONNX Runtime therefore moves the front's transposition behind the
    normalisation, which then meets three channels at a time. A graph with another front is left as it is.
    """
    graph = model.graph
    front = [node for node in graph.node if node.name.startswith(ADDED) and node.name.removeprefix(ADDED) in
             ("layout", "channels", "cast", "mean", "std")]  # fmt: skip
    found = {node.name.removeprefix(ADDED): node for node in front}
    if "layout" not in found:
        return
    readers = [node for node in graph.node if front[-1].output[0] in node.input]
    if [node.op_type for node in readers] != ["QuantizeLinear"]:
        return
    (quantise,) = readers
    height, width = (side.dim_value for side in graph.input[0].type.tensor_type.shape.dim[1:3])
    stored = {tensor.name: tensor for tensor in graph.initializer}
    constants: list[TensorProto] = []
    steps = _Steps(constants)
    steps.add("rows", "Reshape", np.asarray([0, height, 3 * width], np.int64))
    steps.add("cast", "Cast", to=TensorProto.FLOAT)
    for step in ("mean", "std"):
        if step in found:
            tensor = stored[found[step].input[1]]
            values = numpy_helper.to_array(tensor).reshape(3)[:: -1 if "channels" in found else 1]  # of red, green and blue
            graph.initializer.remove(tensor)
            steps.add(step, found[step].op_type, _row(values, width))
    steps.add("bytes", "QuantizeLinear")
    steps.nodes[-1].input.extend(quantise.input[1:])
    steps.add("pixels", "Reshape", np.asarray([0, height, width, 3], np.int64))
    steps.add("layout", "Transpose", perm=APART)
    gone = {*(node.output[0] for node in front), quantise.output[0]}
    rest = [node for node in graph.node if node.output[0] not in gone]
    first = [*steps.end(quantise.output[0] if "channels" not in found else f"{ADDED}layout_out")]
    if "channels" in found:
        gather = found["channels"]
        gather.input[0], gather.output[0] = f"{ADDED}layout_out", quantise.output[0]
        first.append(gather)
    del graph.node[:]
    graph.node.extend([*first, *rest])
    graph.initializer.extend(constants)


class _Steps:
    """Nodes one behind the other, from `INPUT` on."""

    def __init__(self, constants: list[TensorProto]) -> None:
        self.nodes: list[NodeProto] = []
        self._constants, self._value = constants, INPUT

    def add(self, step: str, kind: str, constant: np.ndarray | None = None, **attributes: Any) -> None:
        inputs = [self._value]
        if constant is not None:
            self._constants.append(numpy_helper.from_array(constant, f"{ADDED}{step}_value"))
            inputs.append(self._constants[-1].name)
        self._value = f"{ADDED}{step}_out"
        self.nodes.append(helper.make_node(kind, inputs, [self._value], f"{ADDED}{step}", **attributes))

    def end(self, name: str) -> list[NodeProto]:
        """All of them; the last one's output gets this name."""
        self.nodes[-1].output[0] = name
        return self.nodes


def _row(values: np.ndarray, width: int) -> np.ndarray:
    """(3,) → (3 × width,) float32: red, green, blue, red, …"""
    return np.tile(values.astype(np.float32), width)
