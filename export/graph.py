"""Surgery on an ONNX graph: the front and the end that make it a model of this service.

What comes out is decision 1's contract: `pixels` uint8 (batch, height, width, 3) RGB in, `probabilities`
float32 (batch, classes) out; cast, layout, normalisation, temperature and softmax lie inside. Nodes
that were added are named `quadrant/…`. Knows nothing of torch, nor of what the labels say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.front import ADDED, INPUT, Front, nodes
from export.refusal import Refusal

OUTPUT = "probabilities"
EXTERNAL_FROM = 100_000_000  # bytes of weights; protobuf ends at 2 GiB, and a mapped file is shared by all workers
EXTERNAL_FILE = "weights.bin"
SMALL = 1024  # bytes; such tensors stay in the graph, so that shapes can be inferred without the weights
OLDEST_IR = 8  # of the file format; in older ones initialisers had to be inputs too
PAGE = 4096  # bytes; mapping a file needs offsets aligned to it


class UnusableModel(Refusal):
    """The file is no ONNX classifier that can be wrapped; one line says why."""


def tidy(model: ModelProto) -> None:
    """Every constant becomes an initialiser with raw bytes, so that one digest covers them; idle nodes go. In place."""
    graph = model.graph
    raw: list[TensorProto] = []
    for tensor in graph.initializer:
        ready = tensor.HasField("raw_data") or tensor.data_location == TensorProto.EXTERNAL
        raw.append(tensor if ready else numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    kept: list[NodeProto] = []
    alias: dict[str, str] = {}
    outputs = {output.name for output in graph.output}
    for node in graph.node:
        value = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            raw.append(numpy_helper.from_array(numpy_helper.to_array(value), node.output[0]))
        elif _idle(node) and node.output[0] not in outputs:
            alias[node.output[0]] = alias.get(node.input[0], node.input[0])
        else:
            kept.append(node)
    for old, new in alias.items():
        _rename(kept, old, new)
    _replace(graph.initializer, raw)
    _replace(graph.node, kept)
    names = {tensor.name for tensor in raw}
    _replace(graph.input, [value for value in graph.input if value.name not in names])  # as written before 2019


def wrap(model: ModelProto, front: Front, temperature: float, outputs_probabilities: bool = False) -> str:
    """Put the front before the graph's one input, and temperature and softmax behind its one output; in place.

    Args:
        model: tidy; one float input of pictures, one output of (batch, classes) or that with sides of 1.
        outputs_probabilities: the graph ends in probabilities that sum to 1, but not in a Softmax node.
    Returns:
        The name of the logits (batch, classes) before temperature; logarithms, where the graph ends in probabilities.
    """
    graph = model.graph
    (source,), (target,) = graph.input, graph.output
    precision = source.type.tensor_type.elem_type
    front_name, back_name = f"{ADDED}normalised", f"{ADDED}scores"
    _rename(graph.node, source.name, front_name)
    for node in graph.node:  # the output may have our own names already
        for index, name in enumerate(node.output):
            if name == target.name:
                node.output[index] = back_name
    _rename(graph.node, target.name, back_name)
    for name in (INPUT, OUTPUT):
        _rename(graph.node, name, f"{name}_before", outputs_too=True)
        for tensor in graph.initializer:
            if tensor.name == name:
                tensor.name = f"{name}_before"
    classes = _width(target)
    inner = list(graph.node)
    softmax = next((node for node in inner if node.op_type == "Softmax" and node.output[0] == back_name), None)
    if softmax is not None:
        back_name, outputs_probabilities = softmax.input[0], False
        if not any(softmax.output[0] in node.input for node in inner):
            inner = [node for node in inner if node is not softmax]
    constants: list[TensorProto] = []
    first = list(nodes(front, front_name, precision, constants))
    flat = len(target.type.tensor_type.shape.dim) == 2
    last, logits = _end(back_name, flat, precision, temperature, outputs_probabilities, constants)
    _replace(graph.node, [*first, *inner, *last])
    graph.initializer.extend(constants)
    _replace(
        graph.input, [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", front.height, front.width, 3])]
    )
    _replace(graph.output, [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes])])
    del graph.value_info[:]
    model.ir_version = max(model.ir_version, OLDEST_IR)
    return logits


def _end(
    value: str, flat: bool, precision: int, temperature: float, probabilities: bool, constants: list[TensorProto]
) -> tuple[list[NodeProto], str]:
    steps: list[tuple[str, str, dict[str, Any]]] = []
    if not flat:
        steps.append(("flat", "Flatten", {"axis": 1}))  # (N, classes, 1, 1) → (N, classes)
    if precision != TensorProto.FLOAT:
        steps.append(("single", "Cast", {"to": TensorProto.FLOAT}))
    if probabilities:
        steps.append(("logarithm", "Log", {}))
    made: list[NodeProto] = []
    for step, kind, attributes in steps:
        made.append(helper.make_node(kind, [value], [f"{ADDED}{step}_out"], f"{ADDED}{step}", **attributes))
        value = made[-1].output[0]
    logits = value
    if temperature != 1:
        constants.append(numpy_helper.from_array(np.asarray(temperature, np.float32), f"{ADDED}temperature_value"))
        made.append(helper.make_node("Div", [value, constants[-1].name], [f"{ADDED}tempered"], f"{ADDED}temperature"))
        value = made[-1].output[0]
    made.append(helper.make_node("Softmax", [value], [OUTPUT], f"{ADDED}softmax", axis=1))
    return made, logits


def free_batch(model: ModelProto) -> None:
    """Make a batch that was fixed when the graph was written dynamic, as far as Reshape nodes go; in place.

    Whether that was enough shows when the graph is run with several batch sizes.
    """
    graph = model.graph
    (source,) = graph.input
    fixed = source.type.tensor_type.shape.dim[0].dim_value
    if fixed < 1:
        return
    for value in (source, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]
    stored = {tensor.name: tensor for tensor in graph.initializer}
    readers = [name for node in graph.node for name in node.input]
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[0] in stored or node.input[1] not in stored:
            continue
        shape = numpy_helper.to_array(stored[node.input[1]]).copy()
        if len(shape) and shape[0] == fixed:
            shape[0] = 0  # as in the input
            name = node.input[1] if readers.count(node.input[1]) == 1 else f"{ADDED}{node.output[0]}_shape"
            tensor = numpy_helper.from_array(shape, name)
            if name == node.input[1]:
                stored[name].CopyFrom(tensor)
            else:
                graph.initializer.append(tensor)
                node.input[1] = name


def drop_unused(model: ModelProto) -> None:
    """Remove the initialisers that nothing reads; in place. ONNX Runtime would warn of each whenever it loads the model."""
    read = {*read_by(model.graph.node), *(output.name for output in model.graph.output)}
    _replace(model.graph.initializer, [tensor for tensor in model.graph.initializer if tensor.name in read])


def read_by(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """Names that nodes read, or something within them."""
    for node in nodes:
        yield from node.input
        yield from within(node)


def within(node: NodeProto) -> Iterator[str]:
    """Names that the branches and bodies within a node read or give."""
    for attribute in node.attribute:
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield ""  # also one that reads nothing is one
            yield from read_by(inner.node)
            yield from (value.name for value in inner.output)


def weight_bytes(model: ModelProto) -> int:
    """Bytes of all initialisers."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def digest(model: ModelProto) -> str:
    """SHA-256 over the raw bytes of all initialisers in the graph's order, hexadecimal. The model is tidy."""
    found = hashlib.sha256()
    for tensor in model.graph.initializer:
        found.update(tensor.raw_data)
    return found.hexdigest()


def move_weights_out(model: ModelProto, folder: Path) -> None:
    """Write the weights to `folder/weights.bin` and leave references to it in the model.

    Small tensors stay, so that the graph's shapes can be told without the file.
    """
    with (folder / EXTERNAL_FILE).open("wb") as stream:
        for tensor in model.graph.initializer:
            if len(tensor.raw_data) < SMALL:
                continue
            stream.write(bytes(-stream.tell() % PAGE))
            place = {"location": EXTERNAL_FILE, "offset": stream.tell(), "length": len(tensor.raw_data)}
            stream.write(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))


def inferred(model: ModelProto) -> ModelProto:
    """A copy with the shape of every tensor, and without the bytes of the large weights."""
    copy = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    copy.graph.CopyFrom(
        GraphProto(name=model.graph.name, node=model.graph.node, input=model.graph.input, output=model.graph.output)
    )
    for tensor in model.graph.initializer:
        small = len(tensor.raw_data) < SMALL and tensor.data_location != TensorProto.EXTERNAL
        copy.graph.initializer.append(
            tensor if small else TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
        )
    try:
        return onnx.shape_inference.infer_shapes(copy, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise UnusableModel(f"shapes of the graph don't fit together ({str(error).splitlines()[-1]})") from error


def _idle(node: NodeProto) -> bool:
    """True for nodes that hand on what they got, bit for bit, when a model runs."""
    if node.op_type in ("Identity", "Dropout"):
        return len(node.input) < 3  # the third input of Dropout may switch training on
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    ones = all(set(attributes.get(name, [1])) == {1} for name in ("kernel_shape", "strides"))
    return (
        node.op_type == "AveragePool" and ones and not any(attributes.get("pads", []))
    )  # an adaptive pooling with nothing to do


def _width(value: onnx.ValueInfoProto) -> int | str:
    """Number of classes that an output states, or a name where it doesn't."""
    sides = [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
    return int(np.prod(sides)) if sides and all(sides) else "classes"


def _rename(nodes: Iterable[NodeProto], old: str, new: str, outputs_too: bool = False) -> None:
    for node in nodes:
        for names in (node.input, node.output) if outputs_too else (node.input,):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
        for attribute in node.attribute:  # branches of If, bodies of Loop
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner.node, old, new, outputs_too)


def _replace(field: Any, values: Iterable[Any]) -> None:
    kept = list(values)
    del field[:]
    field.extend(kept)
