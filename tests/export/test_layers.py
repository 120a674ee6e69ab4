"""The layer table against numbers that were worked out by hand, or are known."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import graph, layers
from export.architectures import find
from export.convert import to_onnx


def model_of(node, shape, *weights, opset=17):
    """A graph of one node on a picture of (channels, height, width)."""
    stored = [numpy_helper.from_array(np.zeros(dims, np.float32), f"w{index}") for index, dims in enumerate(weights)]
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])
    target = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    whole = helper.make_graph([node], "one", [source], [target], stored)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", opset)])


def only_row(*args):
    (row,) = layers.table(model_of(*args))
    return row


@pytest.mark.parametrize(
    ("padding", "output"),
    [
        pytest.param(0, (254, 254, 64), id="without padding"),
        pytest.param(1, (256, 256, 64), id="padding 1 keeps the size"),
    ],
)
def test_a_small_convolution_has_the_known_numbers(padding, output):
    """1,792 = 64 · (3 · 3 · 3 + 1): the arithmetic that every reader can check."""
    node = helper.make_node(
        "Conv", ["x", "w0", "w1"], ["y"], "c", kernel_shape=[3, 3], strides=[1, 1], pads=[padding] * 4
    )
    row = only_row(node, (3, 256, 256), (64, 3, 3, 3), (64,))
    assert (row.type, row.filter, row.stride, row.padding, row.depth) == (
        "convolution",
        (3, 3),
        (1, 1),
        (padding,) * 4,
        64,
    )
    assert (row.parameters, row.output) == (1792, output)
    assert row.multiply_adds == output[0] * output[1] * 64 * 27


def test_the_quadrants_have_the_known_numbers():
    """A filter as large as its stride cuts the picture into quadrants: the network that the project is named after."""
    node = helper.make_node("Conv", ["x", "w0", "w1"], ["y"], "c", kernel_shape=[128, 128], strides=[128, 128])
    row = only_row(node, (3, 256, 256), (2, 3, 128, 128), (2,))
    assert (row.parameters, row.output, row.depth, row.stride) == (98306, (2, 2, 2), 2, (128, 128))


def test_pooling_halves_and_learns_nothing():
    """2 × 2 with stride 2."""
    node = helper.make_node("MaxPool", ["x"], ["y"], "p", kernel_shape=[2, 2], strides=[2, 2])
    row = only_row(node, (64, 256, 256))
    assert (row.type, row.output, row.parameters, row.multiply_adds) == ("max pooling", (128, 128, 64), 0, 0)


def test_flattening_counts_every_value():
    """7 × 7 × 5 is 245."""
    row = only_row(helper.make_node("Flatten", ["x"], ["y"], "f", axis=1), (5, 7, 7))
    assert (row.type, row.output, row.parameters) == ("flatten", (245,), 0)


def test_padding_that_a_graph_only_calls_same_is_worked_out():
    """TensorFlow's graphs pad 224 by 0 before and 1 behind at stride 2."""
    node = helper.make_node("Conv", ["x", "w0"], ["y"], "c", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
    row = only_row(node, (3, 224, 224), (32, 3, 3, 3))
    assert (row.padding, row.output) == ((0, 0, 1, 1), (112, 112, 32))


def test_a_grouped_convolution_costs_its_share():
    """A depthwise filter sees one channel, not all."""
    node = helper.make_node("Conv", ["x", "w0"], ["y"], "c", kernel_shape=[3, 3], pads=[1] * 4, group=32)
    row = only_row(node, (32, 10, 10), (32, 1, 3, 3))
    assert row.type == "convolution, 32 groups"
    assert (row.parameters, row.multiply_adds) == (288, 10 * 10 * 32 * 9)


def test_bounds_are_not_learned():
    """The 0 and the 6 of ReLU6 are written into the graph as weights are."""
    node = helper.make_node("Clip", ["x", "w0", "w1"], ["y"], "c")
    row = only_row(node, (8, 4, 4), (), ())
    assert (row.output, row.parameters) == ((4, 4, 8), 0)


def test_alexnet_has_its_61_100_840_parameters():
    """The number that torchvision's documentation states; 714,188,480 multiply-adds follow from the layers."""
    design = find("alexnet")
    model = to_onnx(design.build(1000), design, 224, 224)
    graph.tidy(model)
    rows = layers.table(model)
    assert layers.totals(rows) == (61_100_840, 714_188_480)
    assert (rows[0].name, rows[0].filter, rows[0].output) == ("features.0", (11, 11), (55, 55, 64))
    assert (rows[-1].name, rows[-1].parameters, rows[-1].output) == ("classifier.6", 4_097_000, (1000,))


def test_alexnet64_keeps_its_promise_of_size():
    """At most 5.5 M parameters and 400 M multiply-adds, normalisation folded into the layers before it."""
    design = find("alexnet64")
    model = to_onnx(design.build(200).eval(), design, 64, 64)
    graph.tidy(model)
    rows = layers.table(model)
    parameters, multiply_adds = layers.totals(rows)
    assert parameters < 5_500_000
    assert multiply_adds < 400_000_000
    assert {row.type for row in rows} == {"convolution", "ReLU", "max pooling", "flatten", "fully connected"}
