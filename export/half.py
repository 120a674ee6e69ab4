"""A float32 graph becomes a float16 one: weights and what flows between the layers in half the bytes, for GPUs.

Our own front and end stay in float32, and with them the answers; so does what the schemas of ONNX don't allow in
float16, and what squares or sums up: beyond 65,504 a float16 is infinite. Casts stand where the two meet.

A processor's ONNX Runtime computes such a graph in float32, and rounds the weights alone. What a GPU will answer, which rounds
each layer's output, is told by the same graph with that rounding written out (`rounded`): both are held to the rule.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export import folder, graph, package, published, verify
from export.refusal import Refusal
from service.recipe import Recipe

SUFFIX = "/half"  # behind a tensor's name: the same in float16
LARGEST = float(np.finfo(np.float16).max)
KEPT = {
    "Cast", "Exp", "InstanceNormalization", "LRN", "Log", "LogSoftmax", "Pow", "ReduceL2", "ReduceLogSumExp", "ReduceSum",
    "ReduceSumSquare", "Softmax",
}  # fmt: skip
HALF = "tensor(float16)"

Reference = Callable[[verify.Pixels], verify.Scores]


class Unhalvable(Refusal):
    """The model isn't one to make smaller; one line says why."""


def run(path: Path, output: Path, real: Path | None = None) -> verify.Agreement:
    """Publish a float32 model in float16 too, verified against itself.

    Args:
        path: a float32 model that describes itself.
        output: models/NAME-fp16/VERSION; must not exist yet.
        real: folder of pictures to verify on, besides drawn ones.
    Raises:
        Refusal: one line with what was found and what was expected; nothing has been written.
    """
    folder.check(output)
    opened, model = published.read(path)
    if opened.recipe.precision != "fp32":
        raise Unhalvable(f"{opened.path} is {opened.recipe.precision} already; expected a model in fp32")
    with tempfile.TemporaryDirectory() as place:
        reference = published.scorer(model, Path(place))
    logits = published.comparable(model)
    described = msgspec.structs.replace(opened.recipe, name=output.resolve().parent.name, precision="fp16")
    record = {"from": opened.digest, "exported_by": {name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime")}}
    small, described = faithful(model, logits, described, reference, real, record)
    return package.publish(small, logits, described, list(opened.labels), reference, real, output)


def faithful(
    model: ModelProto,
    logits: str | None,
    described: Recipe,
    reference: Reference,
    real: Path | None,
    record: dict[str, Any] | None = None,
) -> tuple[ModelProto, Recipe]:
    """The model in float16, if it also keeps the rule where each layer's output is rounded; and the recipe that records it.

    Args:
        model: wrapped, float32.
        logits: name of the tensor that is compared with the reference's logits.
        described: the recipe, its precision fp16.
        reference: (N, height, width, 3) uint8 → the scores in float32.
        record: goes into the provenance beside what was measured.
    Raises:
        verify.Unfaithful: it differs by more than the rule allows for fp16.
        verify.UnusablePictures: a picture of the folder can't be decoded.
    """
    drawn, photos = package.pictures(described, real)
    pixels = verify.prepare([*drawn, *photos], described)
    expected = verify.in_batches(reference, pixels)
    with tempfile.TemporaryDirectory() as place:
        ask = package.candidate(halve(model, rounded=True), logits, Path(place))
    try:
        agreement = verify.verify(expected, ask, pixels, "fp16")
    except verify.Unfaithful as error:
        raise verify.Unfaithful(f"with each layer's output rounded to float16, as a GPU does it: {error}") from error
    measured = {"probability": agreement.probability, "logit": agreement.logit, "pictures": agreement.pictures}
    provenance = {**described.provenance, "halved": {**(record or {}), "rounded": measured}}
    return halve(model), msgspec.structs.replace(described, provenance=provenance)


def halve(model: ModelProto, rounded: bool = False) -> ModelProto:
    """The same graph in float16, but for its front, its end and what has to stay.

    Args:
        model: wrapped and tidy, all weights within; left as it is.
        rounded: give the same graph in float32 instead, with weights that were rounded to float16, and the output of each
            layer on its way to the next.
    Raises:
        graph.UnusableModel: shapes of the graph don't fit together.
    """
    halved = ModelProto()
    halved.CopyFrom(model)
    places = _places(model)
    if not any(inputs for inputs, _ in places):
        raise graph.UnusableModel(f"{model.graph.name or 'the graph'} has nothing that can be computed in float16")
    _Pass(halved, places, rounded).run()
    del halved.graph.value_info[:]
    return halved


Places = tuple[frozenset[int], frozenset[int]]  # a node's inputs and outputs that are to be in float16, by position


def _places(model: ModelProto) -> list[Places]:
    """For each node what of it can be in float16."""
    shaped = graph.inferred(model)
    values = (*shaped.graph.input, *shaped.graph.value_info, *shaped.graph.output)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    floats |= {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return [_of_node(node, floats, opset) for node in model.graph.node]


def _of_node(node: NodeProto, floats: set[str], opset: int) -> Places:
    nothing: Places = frozenset(), frozenset()
    if node.name.startswith(graph.ADDED) or node.op_type in KEPT or node.domain not in ("", "ai.onnx") or list(_inner(node)):
        return nothing
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return nothing
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


def _inner(node: NodeProto) -> Iterator[str]:
    """What the branches and bodies within a node read."""
    for attribute in node.attribute:
        for inside in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield ""  # also one that reads nothing is one
            for each in inside.node:
                yield from each.input
                yield from _inner(each)
            yield from (value.name for value in inside.output)


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
            self._wide.update(_inner(node))

    def run(self) -> None:
        """Rewrite the graph."""
        for node, (inputs, outputs) in zip(list(self._graph.node), self._places, strict=True):
            for at, name in enumerate(node.input):
                if at in inputs:
                    node.input[at] = self._in_half(name)
                else:
                    self._in_float(name)
            for name in _inner(node):
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
        read = {name for node in self._nodes for name in (*node.input, *_inner(node))}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

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
        self._nodes.append(helper.make_node("Cast", [name], [into], f"{graph.ADDED}cast_{len(self._nodes)}", to=to))

    def _store(self, tensor: TensorProto, name: str) -> None:
        values = numpy_helper.to_array(tensor)
        # Bounds as 3.4e38 mean "none"; infinity itself stays. A weight of that size would be found by the verification.
        bounded = np.where(np.isfinite(values), np.clip(values, -LARGEST, LARGEST), values).astype(np.float16)
        made = numpy_helper.from_array(bounded.astype(np.float32) if self._rounded else bounded, name)
        if name == tensor.name:
            tensor.CopyFrom(made)
        else:
            self._graph.initializer.append(made)
