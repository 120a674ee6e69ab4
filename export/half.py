"""A float32 graph becomes a float16 one: weights and what flows between the layers in half the bytes, for GPUs.

Our own front and end stay in float32, and with them the answers; so does what the schemas of ONNX don't allow in
float16, and what squares or sums up: beyond 65,504 a float16 is infinite. Casts stand where the two meet.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export import graph
from export.front import ADDED
from export.quantize import WEIGHTY

SUFFIX = "/half"  # behind a tensor's name: the same in float16
LARGEST = float(np.finfo(np.float16).max)
KEPT = {
    "Cast", "Exp", "InstanceNormalization", "LRN", "Log", "LogSoftmax", "Pow", "ReduceL2", "ReduceLogSumExp", "ReduceSum",
    "ReduceSumSquare", "Softmax",
}  # fmt: skip
HALF = "tensor(float16)"


def layers(model: ModelProto) -> dict[str, list[str]]:
    """The layers with weights that can be in float16: their outputs, and those of what follows until the next."""
    stored = {tensor.name for tensor in model.graph.initializer}
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for node, (inputs, _) in zip(model.graph.node, _places(model, ()), strict=True):
        weights = [name for at, name in enumerate(node.input) if at in inputs and name in stored]
        if node.op_type in WEIGHTY and weights:
            current = found.setdefault(weights[0].removesuffix(".weight"), [])
        current.extend(node.output)
    return found


def halve(model: ModelProto, rounded: bool = False, kept: Collection[str] = ()) -> ModelProto:
    """The same graph in float16, but for its front, its end and what has to stay.

    Args:
        model: wrapped and tidy, all weights within; left as it is.
        rounded: give the same graph in float32 instead, with weights that were rounded to float16, and the output of each
            layer on its way to the next: what a GPU computes, for those that have none.
        kept: outputs of nodes that stay in float32.
    Raises:
        graph.UnusableModel: shapes of the graph don't fit together.
    """
    halved = ModelProto()
    halved.CopyFrom(model)
    places = _places(model, kept)
    if not any(inputs for inputs, _ in places):
        raise graph.UnusableModel(f"{model.graph.name or 'the graph'} has nothing that can be computed in float16")
    _Pass(halved, places, rounded).run()
    graph.drop_unused(halved)
    del halved.graph.value_info[:]
    return halved


Places = tuple[frozenset[int], frozenset[int]]  # a node's inputs and outputs that are to be in float16, by position
NOTHING: Places = frozenset(), frozenset()


def _places(model: ModelProto, kept: Collection[str]) -> list[Places]:
    """For each node what of it can be in float16."""
    shaped = graph.inferred(model)
    values = (*shaped.graph.input, *shaped.graph.value_info, *shaped.graph.output)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    floats |= {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return [NOTHING if node.output[0] in kept else _of_node(node, floats, opset) for node in model.graph.node]


def _of_node(node: NodeProto, floats: set[str], opset: int) -> Places:
    if node.name.startswith(ADDED) or node.op_type in KEPT or node.domain not in ("", "ai.onnx") or list(graph.within(node)):
        return NOTHING
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return NOTHING
    types = {each.type_param_str for each in schema.type_constraints if HALF in each.allowed_type_strs}
    # The last input, or output, of a schema may stand for any number of them.
    takes = {at: schema.inputs[min(at, len(schema.inputs) - 1)].type_str for at, name in enumerate(node.input) if name}
    gives = {at: schema.outputs[min(at, len(schema.outputs) - 1)].type_str for at, name in enumerate(node.output) if name}
    types &= set(takes.values())
    types -= {kind for at, kind in takes.items() if node.input[at] not in floats}  # of whole numbers here, or not known
    return (
        frozenset(at for at, kind in takes.items() if kind in types),
        frozenset(at for at, kind in gives.items() if kind in types),
    )


class _Pass:
    """One walk through a graph. A tensor's own name always means float32; in float16 it is called `NAME/half`."""

    def __init__(self, model: ModelProto, places: list[Places], rounded: bool) -> None:
        self._graph, self._places, self._rounded = model.graph, places, rounded
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
        self._nodes: list[NodeProto] = []
        self._half: dict[str, str] = {}  # names by the name in float32
        self._missing: set[str] = set()  # what there is in float16 alone
        self._wide = {value.name for value in model.graph.output}  # what is read in float32
        for node, (inputs, _) in zip(model.graph.node, places, strict=True):
            self._wide |= {name for at, name in enumerate(node.input) if at not in inputs}
            self._wide.update(graph.within(node))

    def run(self) -> None:
        """Rewrite the graph."""
        for node, (inputs, outputs) in zip(list(self._graph.node), self._places, strict=True):
            for at, name in enumerate(node.input):
                if at in inputs:
                    node.input[at] = self._in_half(name)
                else:
                    self._in_float(name)
            for name in graph.within(node):
                self._in_float(name)
            self._nodes.append(node)
            for at in outputs:
                name = node.output[at]
                self._half[name] = f"{name}{SUFFIX}"
                self._missing.add(name)
                if self._rounded:
                    node.output[at] = f"{name}/exact"
                    self._round(node.output[at], self._half[name])
                else:
                    node.output[at] = self._half[name]
        for value in self._graph.output:
            self._in_float(value.name)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)

    def _in_half(self, name: str) -> str:
        """Its name in float16, made on the first demand."""
        if name not in self._half:
            if name in self._stored:
                # Its own name, where nobody needs it in float32: layers are called after their weights.
                self._half[name] = f"{name}{SUFFIX}" if name in self._wide else name
                self._store(self._stored[name], self._half[name])
            else:
                self._half[name] = f"{name}{SUFFIX}"
                if self._rounded:
                    self._round(name, self._half[name])
                else:
                    self._cast(name, self._half[name], TensorProto.FLOAT16)
        return self._half[name]

    def _in_float(self, name: str) -> None:
        if name in self._missing:
            self._cast(self._half[name], name, TensorProto.FLOAT)
            self._missing.remove(name)

    def _round(self, name: str, into: str) -> None:
        self._cast(name, f"{into}16", TensorProto.FLOAT16)
        self._cast(f"{into}16", into, TensorProto.FLOAT)

    def _cast(self, name: str, into: str, to: int) -> None:
        self._nodes.append(helper.make_node("Cast", [name], [into], f"{ADDED}cast_{len(self._nodes)}", to=to))

    def _store(self, tensor: TensorProto, name: str) -> None:
        values = numpy_helper.to_array(tensor)
        # Bounds as 3.4e38 mean "none"; infinity itself stays. A weight of that size would be found by the verification.
        bounded = np.where(np.isfinite(values), np.clip(values, -LARGEST, LARGEST), values).astype(np.float16)
        made = numpy_helper.from_array(bounded.astype(np.float32) if self._rounded else bounded, name)
        if name == tensor.name:
            tensor.CopyFrom(made)
        else:
            self._graph.initializer.append(made)
