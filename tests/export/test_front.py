"""The front of a graph, against plain NumPy, and where it slows an int8 network down."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import front
from export.front import Front

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXELS = np.random.default_rng(1).integers(0, 256, (3, 6, 8, 3), np.uint8)
SCALE, ZERO = np.float32(0.02), np.uint8(114)


def run(nodes, constants, kind):
    inputs = [helper.make_tensor_value_info(front.INPUT, TensorProto.UINT8, ["batch", 6, 8, 3])]
    outputs = [helper.make_tensor_value_info("y", kind, None)]
    graph = helper.make_graph(nodes, "front", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, onnxruntime.InferenceSession(model.SerializeToString()).run(None, {front.INPUT: PIXELS})[0]


def expected(bgr, channels_last):
    found = (PIXELS / 255 - np.array(MEAN)) / np.array(STD)
    found = found[..., ::-1] if bgr else found
    return found if channels_last else found.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("bgr", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_pixels_are_normalised_as_the_recipe_says(bgr, channels_last):
    """In every order of channels."""
    constants = []
    nodes = list(front.nodes(Front(6, 8, MEAN, STD, channels_last, bgr), "y", TensorProto.FLOAT, constants))
    _, found = run(nodes, constants, TensorProto.FLOAT)
    np.testing.assert_allclose(found, expected(bgr, channels_last), atol=1e-5)


@pytest.mark.parametrize("bgr", [False, True])
def test_a_quantised_front_gives_the_same_bytes_along_rows(bgr):
    """Three channels side by side took a quarter of int8 AlexNet's time."""
    constants = [numpy_helper.from_array(SCALE, "scale"), numpy_helper.from_array(ZERO, "zero")]
    nodes = list(front.nodes(Front(6, 8, MEAN, STD, bgr=bgr), "x", TensorProto.FLOAT, constants))
    nodes.append(helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"]))
    model, before = run(nodes, constants, TensorProto.UINT8)
    front.along_rows(model)
    sessions = onnxruntime.InferenceSession(model.SerializeToString())
    (after,) = sessions.run(None, {front.INPUT: PIXELS})
    np.testing.assert_array_equal(after, before)
    order = [node.op_type for node in model.graph.node]
    assert order.index("Transpose") > order.index("QuantizeLinear") > order.index("Sub")
    spread = [tensor for tensor in model.graph.initializer if tensor.name.endswith(("mean_value", "std_value"))]
    assert [list(tensor.dims) for tensor in spread] == [[3 * 8], [3 * 8]]


def test_another_front_is_left_alone():
    """A graph that no quantiser went over."""
    constants = []
    nodes = list(front.nodes(Front(6, 8, MEAN, STD), "y", TensorProto.FLOAT, constants))
    model, _ = run(nodes, constants, TensorProto.FLOAT)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    front.along_rows(model)
    assert model == copy
