"""The pass to float16: what changes its type, what stays, and that it computes the same."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export import graph, half, package, verify
from export.front import ADDED

RULE = 2e-3  # on probabilities


def pixels(count=7, side=16):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def types(model: ModelProto) -> dict[str, int]:
    """The element type of every tensor, as ONNX infers it."""
    shaped = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    found = {value.name: value.type.tensor_type.elem_type
             for value in (*shaped.graph.input, *shaped.graph.value_info, *shaped.graph.output)}  # fmt: skip
    return found | {tensor.name: tensor.data_type for tensor in shaped.graph.initializer}


def unusual() -> ModelProto:
    """Layers that can't be in fp16, or only in part, between those that can; weights that both kinds need."""
    random = np.random.default_rng(5)
    weights = {
        "w": random.normal(0, 0.3, (4, 3, 3, 3)), "b": random.normal(0, 1, 4), "v": random.normal(0, 0.3, (16, 5)),
        "low": np.asarray(-3.4e38), "high": np.asarray(6.0), "scales": np.asarray([1, 1, 0.5, 0.5]), "two": np.asarray(2.0),
    }  # fmt: skip
    here = helper.make_tensor_value_info("picked", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Mul", ["clipped", "two"], ["picked"])], "yes", [], [here])
    other = helper.make_graph([helper.make_node("Identity", ["clipped"], ["picked"])], "no", [], [here])
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["turned"], "quadrant/layout", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["turned"], ["float"], "quadrant/cast", to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "quadrant/255"], ["scaled"], "quadrant/std"),
        helper.make_node("Conv", ["scaled", "w", "b"], ["maps"], "conv"),
        helper.make_node("LRN", ["maps"], ["normal"], "lrn", size=3),
        helper.make_node("Clip", ["normal", "low", "high"], ["clipped"], "clip"),
        helper.make_node("If", ["quadrant/yes"], ["chosen"], "if", then_branch=branch, else_branch=other),
        helper.make_node("Pow", ["chosen", "two"], ["squared"], "pow"),
        helper.make_node("Add", ["squared", "two"], ["added"], "add"),
        helper.make_node("Resize", ["added", "", "scales"], ["small"], "resize", mode="nearest"),
        helper.make_node("AveragePool", ["small"], ["pooled"], "pool", kernel_shape=[3, 3], strides=[3, 3]),
        helper.make_node("Shape", ["pooled"], ["all"], "shape"),
        helper.make_node("Gather", ["all", "quadrant/zero"], ["first"], "first"),
        helper.make_node("Concat", ["first", "quadrant/rest"], ["flatter"], "concat", axis=0),
        helper.make_node("Reshape", ["pooled", "flatter"], ["flat"], "flat"),
        helper.make_node("MatMul", ["flat", "v"], ["scores"], "scores"),
        helper.make_node("Softmax", ["scores"], ["probabilities"], "quadrant/softmax", axis=1),
    ]
    stored = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    stored += [numpy_helper.from_array(value, name) for name, value in {
        "quadrant/255": np.asarray(255, np.float32), "quadrant/yes": np.asarray(True), "quadrant/zero": np.asarray([0], np.int64),
        "quadrant/rest": np.asarray([16], np.int64)}.items()]  # fmt: skip
    source = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 16, 16, 3])
    target = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 5])
    made = helper.make_graph(nodes, "unusual", [source], [target], stored)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def ask(model: ModelProto) -> verify.Scores:
    with tempfile.TemporaryDirectory() as place:
        return package.candidate(model, "scores", Path(place))(pixels())


@pytest.mark.parametrize("rounded", [False, True])
def test_layers_that_cannot_be_halved_are_cast_around(rounded):
    """Nothing that ONNX or a processor lacks in fp16 may keep a model from loading, nor change its answers."""
    model, small = unusual(), half.halve(unusual(), rounded)
    onnx.checker.check_model(small, full_check=True)
    before, after = ask(model), ask(small)
    assert 0 < np.abs(before.logits - after.logits).max() < 4e-3 * max(1, np.abs(before.logits).max())
    assert np.abs(before.probabilities - after.probabilities).max() < RULE


def test_only_what_needs_float_stays_in_float():
    """By the schemas: Resize takes its scales in float32 beside maps in fp16; by choice: what squares."""
    small = half.halve(unusual())
    known, nodes = types(small), {node.name: node for node in small.graph.node}
    kinds = {name: [known.get(each, 0) for each in node.input if each] for name, node in nodes.items() if "/" not in name}
    wide, narrow = TensorProto.FLOAT, TensorProto.FLOAT16
    assert (kinds["conv"], kinds["lrn"], kinds["clip"], kinds["pow"]) == ([narrow] * 3, [wide], [narrow] * 3, [wide] * 2)
    assert (kinds["add"], kinds["resize"], kinds["scores"]) == ([narrow] * 2, [narrow, wide], [narrow] * 2)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in small.graph.initializer}
    assert stored["low"] == -65504  # a bound that means "none" must not become infinite
    assert (stored["two"].dtype, stored["two/half"].dtype) == (np.float32, np.float16)


def test_the_rounded_graph_rounds_every_layer():
    """It stands for the GPU that isn't here: what flows between layers must fit in fp16 exactly."""
    small = half.halve(unusual(), rounded=True)
    assert TensorProto.FLOAT16 not in {tensor.data_type for tensor in small.graph.initializer}
    inner = [name for node in small.graph.node for name in node.output if name.endswith(half.SUFFIX) and types(small)[name] == 1]
    assert {"maps/half", "clipped/half", "pooled/half", "scores/half"} <= set(inner)
    del small.graph.output[:]
    small.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inner)
    for values in verify.session(small.SerializeToString()).run(inner, {"pixels": pixels()}):
        assert (values == values.astype(np.float16)).all()


def test_halving_leaves_the_model_as_it_is():
    """The caller still needs it to compare with."""
    model = unusual()
    half.halve(model)
    assert model.SerializeToString(deterministic=True) == unusual().SerializeToString(deterministic=True)


def test_a_graph_with_nothing_to_halve_is_refused():
    """It would be published as fp16, and be what it was."""
    model = unusual()
    for node in model.graph.node:
        node.name = f"{ADDED}{node.name}"
    with pytest.raises(graph.UnusableModel, match="unusual has nothing that can be computed in float16"):
        half.halve(model)


def test_layers_can_be_kept_out():
    """With all that follows them until the next one, so that nothing is rounded in between."""
    model = unusual()
    layers = half.layers(model)
    assert {name: outputs[0] for name, outputs in layers.items()} == {"w": "maps", "v": "scores"}
    assert {"normal", "clipped", "added", "flat"} <= set(layers["w"])
    known = types(half.halve(model, kept=layers["w"]))
    assert [known[name] for name in ("w", "clipped", "flat")] == [TensorProto.FLOAT] * 3
    assert [known[name] for name in ("v", "flat/half", "scores/half")] == [TensorProto.FLOAT16] * 3
