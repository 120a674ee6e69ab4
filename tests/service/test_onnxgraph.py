"""A model file's nodes and weights without the onnx package, held against that package."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service import onnxgraph, protobuf
from service.onnxgraph import Node, Replacement

VALUE = helper.make_tensor_value_info


def network() -> bytes:
    """Two nodes and what they need."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"], "first", pads=[1, 0, 1, 0], group=1, auto_pad="NOTSET"),
         helper.make_node("Elu", ["c"], ["y"], "second", domain="", alpha=0.5)],
        "net", [VALUE("x", TensorProto.FLOAT, ["N", 1, 3, 3])], [VALUE("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3), "w"),
         numpy_helper.from_array(np.arange(3), "numbers"), numpy_helper.from_array(np.array(1, np.float32), "scalar")])
    content: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="us").SerializeToString()
    return content


def test_nodes_are_read_as_they_were_made():
    """Names, operators, attributes of the kinds that matter; weights of float32 that have a size."""
    (first, known), (second, _) = onnxgraph.nodes(network())
    assert (first.kind, first.name, first.domain, first.inputs, first.outputs) == ("Conv", "first", "", ["x", "w"], ["c"])
    assert first.attributes == {"pads": [1, 0, 1, 0], "group": 1, "auto_pad": b"NOTSET"}
    assert second.attributes == {"alpha": 0.5}
    assert list(known) == ["w"]
    assert (known["w"].dims, known["w"].size) == ([1, 1, 3, 3], 36)
    assert onnxgraph.ends(network()) == (["x"], ["y"])


def test_a_packed_list_is_read_too():
    """Other writers than onnx pack whole numbers."""
    ints = protobuf.bytes_of(onnxgraph.A_INTS, bytes([1, 2, 0x80, 1]))
    content = protobuf.bytes_of(onnxgraph.ATTRIBUTE, protobuf.bytes_of(onnxgraph.A_NAME, b"pads") + ints)
    assert Node(memoryview(content)).attributes == {"pads": [1, 2, 128]}


def test_long_lists_are_not_copied_for_each_of_their_numbers(monkeypatch):
    """20,000 of them took 0.28 s, and a file can hold millions."""
    copied: list[int] = []

    class Counted(list[int]):
        def __radd__(self, before: list[int]) -> list[int]:
            copied.append(len(before))
            return [*before, *self]

    read = protobuf.integers
    monkeypatch.setattr(protobuf, "integers", lambda field: Counted(read(field)))
    name = protobuf.bytes_of(onnxgraph.A_NAME, b"pads")
    content = protobuf.bytes_of(onnxgraph.ATTRIBUTE, name + protobuf.integer(onnxgraph.A_INTS, 7) * 20_000)
    assert Node(memoryview(content)).attributes == {"pads": [7] * 20_000}
    assert not copied


@pytest.mark.parametrize("content", [
    pytest.param(protobuf.bytes_of(onnxgraph.INPUT, b"\xff"), id="input"),
    pytest.param(protobuf.bytes_of(onnxgraph.OUTPUT, b"ok\xc3"), id="output"),
    pytest.param(protobuf.bytes_of(onnxgraph.OP_TYPE, b"\x80"), id="operator"),
])
def test_names_that_are_not_utf_8_are_told(content):
    """Never a UnicodeDecodeError."""
    with pytest.raises(protobuf.Malformed, match="not UTF-8"):
        Node(memoryview(content))


def test_a_node_without_an_output_is_read():
    """Never an IndexError."""
    graph = protobuf.bytes_of(onnxgraph.NODE, onnxgraph.node("Identity", ["x"], [], "n"))
    content = protobuf.bytes_of(onnxgraph.MODEL_GRAPH, graph)
    ((node, _),) = onnxgraph.nodes(content)
    assert node.outputs == []
    assert onnxgraph.part(content, {"y"}, "y", TensorProto.FLOAT)


def test_what_is_written_onnx_reads():
    """A node with attributes, and weights within and outside."""
    content = onnxgraph.node("Conv", ["x", "w"], ["y"], "new", "quadrant")
    content += onnxgraph.attribute("lanes", 16) + onnxgraph.attribute("pads", [1, 300])
    made = onnx.NodeProto.FromString(content)
    assert made == helper.make_node("Conv", ["x", "w"], ["y"], "new", domain="quadrant", lanes=16, pads=[1, 300])
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    inside = onnx.TensorProto.FromString(onnxgraph.initializer("a", (2, 3), array.tobytes()))
    assert np.array_equal(numpy_helper.to_array(inside), array)
    outside = onnx.TensorProto.FromString(onnxgraph.initializer("a", (2, 3), {"location": "f", "offset": "64", "length": "24"}))
    assert (outside.data_location, [entry.value for entry in outside.external_data]) == (TensorProto.EXTERNAL, ["f", "64", "24"])


def test_nodes_are_replaced_and_removed():
    """All else stays; the new operators' domain is told."""
    def change(node: Node, _: object) -> Replacement | None:
        if node.name == "second":
            return Replacement([], {})
        new = onnxgraph.node("Mine", [node.inputs[0], "new"], ["y"], "mine", "ours")
        return Replacement([new], {"new": onnxgraph.initializer("new", (1,), bytes(4))})

    made, before = onnx.load_from_string(onnxgraph.replaced(network(), change, "ours")), onnx.load_from_string(network())
    assert [(node.op_type, list(node.input), list(node.output)) for node in made.graph.node] == [("Mine", ["x", "new"], ["y"])]
    assert [tensor.name for tensor in made.graph.initializer] == ["w", "numbers", "scalar", "new"]
    assert [(each.domain, each.version) for each in made.opset_import] == [("", 17), ("ours", 1)]
    assert (made.producer_name, made.graph.input, made.graph.output) == ("us", before.graph.input, before.graph.output)


def test_a_domain_is_told_once():
    """Though its operators come one after the other."""
    def change(node: Node, _: object) -> Replacement:
        return Replacement([bytes(node.content)], {})

    made = onnxgraph.replaced(onnxgraph.replaced(network(), change, "ours"), change, "ours")
    assert [each.domain for each in onnx.load_from_string(made).opset_import] == ["", "ours"]


def test_where_nothing_is_replaced_it_is_the_same():
    """The very bytes, without another domain."""
    model = network()
    assert onnxgraph.replaced(model, lambda *_: None, "ours") is model


def test_a_part_has_its_own_end():
    """To be run alone."""
    made = onnx.load_from_string(onnxgraph.part(network(), {"c"}, "c", onnxgraph.FLOAT))
    assert [node.name for node in made.graph.node] == ["first"]
    assert [value.name for value in made.graph.output] == ["c"]
    assert made.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


@pytest.mark.parametrize("ask", [
    lambda model: list(onnxgraph.nodes(model)), onnxgraph.ends, lambda model: onnxgraph.part(model, set(), "y", 1),
    lambda model: onnxgraph.replaced(model, lambda *_: None)], ids=["nodes", "ends", "part", "replaced"])
def test_what_is_no_model_is_told(ask):
    """As everywhere that such bytes are read."""
    with pytest.raises(protobuf.Malformed):
        ask(b"\x3a\xff\xff\xff\xff\x0f")
