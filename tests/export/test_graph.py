"""Surgery on graphs, where the other tests don't reach."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import folder, graph
from export.front import Front
from tests.export.graphs import bare_graph

FRONT = Front(16, 16, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def tensor_names(model):
    return [tensor.name for tensor in model.graph.initializer]


def test_tidying_leaves_raw_bytes_only():
    """The service's digest covers raw bytes; lists of floats and constants in nodes would slip by."""
    model = bare_graph()
    model.graph.initializer[1].CopyFrom(helper.make_tensor("b", TensorProto.FLOAT, [8], [1.0] * 8))
    graph.tidy(model)
    assert all(tensor.HasField("raw_data") for tensor in model.graph.initializer)
    assert "Constant" not in [node.op_type for node in model.graph.node]
    assert "shape" in tensor_names(model)
    content = b"".join(tensor.raw_data for tensor in model.graph.initializer)
    assert graph.digest(model) == hashlib.sha256(content).hexdigest()


def test_nodes_that_do_nothing_go():
    """Dropout, copies, and adaptive pooling that has nothing to do."""
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Dropout", ["a"], ["b"]),
        helper.make_node("AveragePool", ["b"], ["c"], kernel_shape=[1, 1], strides=[1, 1]),
        helper.make_node("AveragePool", ["c"], ["d"], kernel_shape=[2, 2]),
        helper.make_node("Identity", ["d"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph(nodes, "idle", ends[:1], ends[1:]))
    graph.tidy(model)
    left = [(node.op_type, list(node.input)) for node in model.graph.node]
    assert left == [("AveragePool", ["x"]), ("Identity", ["d"])]


def test_what_nothing_reads_goes_and_nothing_else():
    """A weight may be read in a branch alone, or be an answer itself."""
    one = {name: numpy_helper.from_array(np.ones(1, np.float32), name) for name in ("bias", "branch", "answer", "given", "idle")}
    value = helper.make_tensor_value_info
    add = helper.make_node("Add", ["bias", "branch"], ["sum"])
    then = helper.make_graph([add], "then", [], [value("sum", TensorProto.FLOAT, [1])])
    other = helper.make_graph([], "other", [], [value("given", TensorProto.FLOAT, [1])])
    nodes = [helper.make_node("If", ["x"], ["y"], then_branch=then, else_branch=other)]
    ends = [value("x", TensorProto.BOOL, [1]), value("y", TensorProto.FLOAT, [1]), value("answer", TensorProto.FLOAT, [1])]
    model = helper.make_model(helper.make_graph(nodes, "branches", ends[:1], ends[1:], one.values()))
    graph.drop_unused(model)
    assert tensor_names(model) == ["bias", "branch", "answer", "given"]


def test_initialisers_that_are_inputs_too_are_no_inputs():
    """Files from before 2019 list them among the inputs."""
    model = bare_graph()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [8, 3, 3, 3]))
    graph.tidy(model)
    assert [value.name for value in model.graph.input] == ["x"]


def test_tensors_that_bear_our_names_give_way():
    """A graph whose own input is called `pixels` is common; two tensors of one name are not a graph."""
    model = bare_graph()
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = "pixels" if name == "x" else name
        for index, name in enumerate(node.output):
            node.output[index] = "probabilities" if name == "maps" else "y" if name == "probabilities" else name
        for index, name in enumerate(node.input):
            node.input[index] = "probabilities" if name == "maps" else name
    model.graph.input[0].name, model.graph.output[0].name = "pixels", "y"
    graph.tidy(model)
    graph.wrap(model, FRONT, 1.0)
    onnx.checker.check_model(model, full_check=True)


def test_a_shape_that_two_reshapes_share_is_changed_for_one():
    """The other may reshape weights, whose first side is no batch."""
    shape = numpy_helper.from_array(np.asarray([1, 4], np.int64), "shape")
    weight = numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("Reshape", ["w", "shape"], ["row"]),
        helper.make_node("Mul", ["flat", "row"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 2]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "shared", ends[:1], ends[1:], [shape, weight]),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    graph.free_batch(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.ones((3, 2, 2), np.float32)})[0].shape == (3, 4)


def test_weights_outside_are_aligned_and_small_tensors_stay(tmp_path):
    """A file is mapped by pages; shapes must be known without it."""
    model = bare_graph()
    model.graph.initializer.append(numpy_helper.from_array(np.ones((40, 40), np.float32), "large"))
    graph.tidy(model)
    before = {tensor.name: tensor.raw_data for tensor in model.graph.initializer}
    graph.move_weights_out(model, tmp_path)
    outside = [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    assert [tensor.name for tensor in outside] == ["large"]
    place = {entry.key: entry.value for entry in outside[0].external_data}
    assert place["location"] == "weights.bin"
    assert int(place["offset"]) % 4096 == 0
    content = (tmp_path / "weights.bin").read_bytes()
    assert content[int(place["offset"]) :][: int(place["length"])] == before["large"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    """Other processes read models while one is written."""
    output = tmp_path / "models" / "fish" / "1"

    def halfway():
        with folder.appearing(output) as part:
            (part / "model.onnx").write_bytes(b"half")
            assert not output.exists()
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        halfway()
    assert list(tmp_path.iterdir()) == []
    with folder.appearing(output) as part:
        (part / "model.onnx").write_bytes(b"whole")
    assert [file.name for file in output.parent.iterdir()] == ["1"]
    assert oct(output.stat().st_mode)[-3:] == "755"
