"""The layer table of an ONNX graph: what each layer looks at, what it gives, what it costs.

Counts by the usual rules: a multiply-add is one multiplication of a weight; additions of biases,
pooling and activations cost nothing by this measure; a filter of height h and width w over c channels has
h · w · c weights and one bias.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, helper

from export import graph
from export.front import ADDED
from service.recipe import Layer

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
TYPES = {
    "Conv": "convolution",
    "ConvTranspose": "transposed convolution",
    "Gemm": "fully connected",
    "MatMul": "fully connected",
    "MaxPool": "max pooling",
    "AveragePool": "average pooling",
    "GlobalAveragePool": "average pooling",
    "GlobalMaxPool": "max pooling",
    "BatchNormalization": "batch normalisation",
    "LayerNormalization": "layer normalisation",
    "LRN": "local response normalisation",
    "Relu": "ReLU",
    "Flatten": "flatten",
    "Reshape": "reshape",
    "Softmax": "softmax",
    "Transpose": "transpose",
    "Add": "add",
    "Mul": "multiply",
    "Div": "divide",
    "ReduceMean": "mean",
}
# Bookkeeping of shapes and types: no layers.
SILENT = {
    "Shape",
    "Gather",
    "Unsqueeze",
    "Squeeze",
    "Concat",
    "Cast",
    "Constant",
    "ConstantOfShape",
    "Identity",
    "Dropout",
    "Slice",
    "Expand",
    "Equal",
    "Where",
}
QUANTISATION = ("QuantizeLinear", "DequantizeLinear")
DEQUANTISED = "_DequantizeLinear_Output"  # what ONNX Runtime's tools put behind a weight's name
FRONT_NAME = "input"


def table(model: ModelProto) -> list[Layer]:
    """A row for every layer, in the graph's order; the nodes that normalise pixels are one row.

    Args:
        model: tidy (`graph.tidy`); its weights may lie outside.
    Raises:
        graph.UnusableModel: shapes of the graph don't fit together.
    """
    shaped = graph.inferred(model)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*shaped.graph.input, *shaped.graph.value_info, *shaped.graph.output)
    }
    weights = {tensor.name: list(tensor.dims) for tensor in shaped.graph.initializer if tensor.data_type in FLOATS}
    stored = {tensor.name: list(tensor.dims) for tensor in shaped.graph.initializer}
    for node in shaped.graph.node:  # what was learned may be kept in int8
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            weights[node.output[0]] = stored[node.input[0]]
    rows: list[Layer] = []
    layers = [node for node in shaped.graph.node if node.op_type not in QUANTISATION]
    front = list(takewhile(lambda node: node.name.startswith(ADDED), layers))
    if front:
        shape = shapes.get(front[-1].output[0], [])
        if len(shape) == 4 and not any(node.op_type == "Transpose" for node in front):
            shape = [shape[0], shape[3], shape[1], shape[2]]  # the network takes channels last
        rows.append(_layer(FRONT_NAME, "normalisation", shape))
    for node in shaped.graph.node:
        if node in front or node.op_type in {*SILENT, *QUANTISATION} or all(name in stored for name in node.input):
            continue
        rows.append(_row(node, shapes, weights))
    return rows


def totals(rows: Iterable[Layer]) -> tuple[int, int]:
    """Parameters and multiply-adds of all layers together."""
    counted = list(rows)
    return sum(row.parameters for row in counted), sum(row.multiply_adds for row in counted)


def _row(node: NodeProto, shapes: dict[str, list[int]], weights: dict[str, list[int]]) -> Layer:
    attributes: dict[str, Any] = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    before, after = shapes.get(node.input[0], []), shapes.get(node.output[0], [])
    # Temperature is a setting, not something learned; so are single numbers, as the 6 of ReLU6.
    learned = [] if node.name.startswith(ADDED) else [weights[name] for name in node.input if weights.get(name)]
    kernel = attributes.get("kernel_shape") or (learned[0][2:] if node.op_type == "Conv" and learned else None)
    # Without them nobody could work the number of parameters out from the table.
    groups = f", {attributes['group']} groups" if attributes.get("group", 1) > 1 else ""
    multiply_adds, depth = 0, None
    if node.op_type in ("Conv", "ConvTranspose") and learned:
        depth = learned[0][0] if node.op_type == "Conv" else after[1]
        # Each output value of a convolution, each input value of a transposed one, meets one filter's weights.
        places = math.prod((after if node.op_type == "Conv" else before)[1:])
        multiply_adds = places * math.prod(learned[0][1:])
    elif node.op_type in ("Gemm", "MatMul") and learned:
        multiply_adds = math.prod(after[1:-1]) * math.prod(learned[0])
    elif node.op_type in ("GlobalAveragePool", "GlobalMaxPool"):
        kernel = before[2:]
    geometry: dict[str, Any] = {}
    if kernel and len(kernel) == 2:
        stride = tuple(attributes.get("strides") or (1, 1))
        geometry = {"filter": tuple(kernel), "stride": stride, "padding": _padding(attributes, kernel, stride, before)}
    return _layer(
        _name(node),
        TYPES.get(node.op_type, node.op_type.lower()) + groups,
        after,
        **geometry,
        depth=depth,
        parameters=sum(math.prod(shape) for shape in learned),
        multiply_adds=multiply_adds,
    )


def _layer(name: str, kind: str, shape: list[int], **known: Any) -> Layer:
    absent: dict[str, Any] = {
        "filter": None,
        "stride": None,
        "padding": None,
        "depth": None,
        "parameters": 0,
        "multiply_adds": 0,
    }
    return Layer(name=name, type=kind, output=_dims(shape), **(absent | known))


def _padding(
    attributes: dict[str, Any], kernel: Sequence[int], stride: Sequence[int], before: list[int]
) -> tuple[int, ...]:
    """Zeros on (top, left, bottom, right); worked out where the graph only says SAME."""
    automatic = bytes(attributes.get("auto_pad", b"NOTSET")).decode()
    if not automatic.startswith("SAME"):
        return tuple(attributes.get("pads") or [0] * 2 * len(kernel))
    spread = attributes.get("dilations") or [1] * len(kernel)
    less, more = [], []
    for size, side, step, apart in zip(kernel, before[2:], stride, spread, strict=True):
        missing = max(0, (math.ceil(side / step) - 1) * step + (size - 1) * apart + 1 - side)
        less.append(missing // 2)
        more.append(missing - missing // 2)
    return (*less, *more) if automatic == "SAME_UPPER" else (*more, *less)


def _dims(shape: list[int]) -> tuple[int, ...]:
    """(batch, channels, height, width) → [height, width, channels]; the batch is left out, unknown sides are 0."""
    inner = shape[1:]
    return (*inner[1:], inner[0]) if len(inner) == 3 else tuple(inner)


def _name(node: NodeProto) -> str:
    """`features.0` from `features.0.weight` or from `/features/features.0/Conv`, the node's own name otherwise."""
    name_of_node: str = node.name
    if name_of_node.startswith(ADDED):
        return name_of_node.removeprefix(ADDED)
    inputs = [name.removesuffix(DEQUANTISED) for name in node.input]
    named = next((name.removesuffix(".weight") for name in inputs if name.endswith(".weight")), "")
    parts = name_of_node.strip("/").split("/")
    return named or (parts[-2] if len(parts) > 1 else parts[0].lower()) or str(node.output[0])
