"""Bare ONNX classifiers in the forms in which they come: quick to make, their answers differ between pictures."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 5
SIDE = 16  # pixels
WORDS = [
    ("n01440764", "tench"),
    ("n01443537", "goldfish"),
    ("n02012849", "crane"),
    ("n02123159", "tiger cat"),
    ("n07753592", "banana"),
]


def bare_graph(layout="nchw", ending="logits", batch=1, half=False, size=(SIDE, SIDE), opset=17, channels=3):
    """A bare classifier: convolution, mean over the picture, fully connected; `ending` is its last layer.

    A fixed batch is fixed in its Reshape too, as exporters write it.
    """
    generator = np.random.default_rng(3)
    kind, numbers = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)

    def weight(name, *shape):
        return numpy_helper.from_array(generator.normal(0, 1, shape).astype(numbers), name)

    dims = [channels, *size] if layout == "nchw" else [*size, channels]
    first = ["x"] if layout == "nchw" else ["turned"]
    nodes = [] if layout == "nchw" else [helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 3, 1, 2])]
    nodes += [
        helper.make_node("Conv", [*first, "w", "b"], ["maps"], "conv", kernel_shape=[3, 3], strides=[2, 2]),
        helper.make_node("Relu", ["maps"], ["rectified"], "relu"),
        helper.make_node("GlobalAveragePool", ["rectified"], ["mean"], "mean"),
        helper.make_node(
            "Constant", [], ["shape"], value=numpy_helper.from_array(np.asarray([batch or -1, 8], np.int64))
        ),
        helper.make_node("Reshape", ["mean", "shape"], ["flat"], "flat"),
        helper.make_node("MatMul", ["flat", "v"], ["scores"], "scores"),
    ]
    out = [batch or "n", CLASSES]
    match ending:
        case "logits":
            nodes[-1].output[0] = "probabilities"  # a name that is ours, and wrong at that
        case "softmax":
            nodes.append(helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1))
        case "hidden softmax":  # probabilities, but not from a last Softmax
            nodes.append(helper.make_node("Softmax", ["scores"], ["inner"], axis=1))
            nodes.append(helper.make_node("Clip", ["inner"], ["probabilities"]))
        case "sigmoid":
            nodes.append(helper.make_node("Sigmoid", ["scores"], ["probabilities"]))
        case "maps":  # (batch, classes, 1, 1)
            nodes[-3:] = [helper.make_node("Conv", ["mean", "k"], ["probabilities"], kernel_shape=[1, 1])]
            out = [batch or "n", CLASSES, 1, 1]
    weights = [weight("w", 8, channels, 3, 3), weight("b", 8), weight("v", 8, CLASSES), weight("k", CLASSES, 8, 1, 1)]
    graph = helper.make_graph(
        nodes,
        "bare",
        [helper.make_tensor_value_info("x", kind, [batch or "n", *dims])],
        [helper.make_tensor_value_info("probabilities", kind, out)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model
