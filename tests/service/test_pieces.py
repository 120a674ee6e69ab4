"""Large layers in pieces: the same network, and nothing else of the file changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from service import pieces, protobuf

ROWS, COLUMNS = 72, 40
RANDOM = np.random.default_rng(5)
MATRIX = RANDOM.standard_normal((ROWS, COLUMNS)).astype(np.float32)
BIAS = RANDOM.standard_normal(ROWS).astype(np.float32)
PICTURES = RANDOM.standard_normal((3, COLUMNS)).astype(np.float32)
PIECE = 16 * COLUMNS * 4  # bytes of the least rows


def outside(array: np.ndarray[Any, Any], name: str, folder: Path) -> onnx.TensorProto:
    """A tensor whose content lies in weights.bin, behind what is there already."""
    tensor = numpy_helper.from_array(array, name)
    file = folder / "weights.bin"
    offset = file.stat().st_size if file.exists() else 64
    with open(file, "ab") as stream:
        stream.write(bytes(offset - stream.tell()) + array.tobytes())
    onnx.external_data_helper.set_external_data(tensor, "weights.bin", offset, array.nbytes)
    tensor.ClearField("raw_data")
    return tensor


def network(folder: Path, bias: str = "inside", matrix: np.ndarray[Any, Any] = MATRIX, **attributes: Any) -> bytes:
    """A fully connected layer and a ReLU, with things around it that must stay."""
    initializers = [outside(matrix, "weight", folder)]
    if bias != "none":
        initializers.append(outside(BIAS, "bias", folder) if bias == "outside" else numpy_helper.from_array(BIAS, "bias"))
    inputs = ["x", "weight", *(["bias"] if bias != "none" else [])]
    kind = helper.np_dtype_to_tensor_dtype(matrix.dtype)
    graph = helper.make_graph(
        [helper.make_node("Gemm", inputs, ["y"], "layer", **({"transB": 1} | attributes)),
         helper.make_node("Relu", ["y"], ["z"])],
        "net", [helper.make_tensor_value_info("x", kind, ("N", None))], [helper.make_tensor_value_info("z", kind, ("N", ROWS))],
        initializers, doc_string="of the graph")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="somebody", ir_version=8)
    helper.set_model_props(model, {"quadrant.recipe": "{}"})
    content: bytes = model.SerializeToString()
    return content


def answers(model: bytes, folder: Path) -> np.ndarray[Any, Any]:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    found = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, {"x": PICTURES})[0]
    return np.asarray(found)


@pytest.mark.parametrize("bias", ["inside", "outside", "none"])
@pytest.mark.parametrize(("most", "count"), [(PIECE, 5), (2 * PIECE, 3), (4 * PIECE, 2), (1, 5)])
def test_the_network_is_the_same_in_pieces(tmp_path, bias, most, count):
    """Equal ones, the last one shorter; each row as it was."""
    model = network(tmp_path, bias)
    made = pieces.cut(model, most)
    found = onnx.load_from_string(made)
    kinds = [node.op_type for node in found.graph.node]
    assert kinds == ["Gemm"] * count + ["Concat", "Relu"]
    assert np.array_equal(answers(made, tmp_path), answers(model, tmp_path))
    expected = np.maximum(PICTURES @ MATRIX.T + (BIAS if bias != "none" else 0), 0)
    assert np.allclose(answers(made, tmp_path), expected, atol=1e-5)


def test_all_else_stays(tmp_path):
    """Names, metadata, versions, inputs and outputs; the first layer's weights too, which something else may use."""
    before = onnx.load_from_string(network(tmp_path))
    after = onnx.load_from_string(pieces.cut(before.SerializeToString(), PIECE))
    for name in ("ir_version", "producer_name", "metadata_props", "opset_import"):
        assert getattr(after, name) == getattr(before, name)
    for name in ("name", "doc_string", "input", "output"):
        assert getattr(after.graph, name) == getattr(before.graph, name)
    assert after.graph.node[-1] == before.graph.node[-1]
    assert list(after.graph.initializer[:2]) == list(before.graph.initializer)


@pytest.mark.parametrize(("attributes", "matrix"), [
    ({"transB": 0}, np.ascontiguousarray(MATRIX.T)), ({"alpha": 0.5}, MATRIX), ({"beta": 2.0}, MATRIX),
    ({"transA": 1}, MATRIX), ({}, MATRIX.astype(np.float64))])
def test_other_layers_are_left_as_they_are(tmp_path, attributes, matrix):
    """Their rows are not pieces of the answer, or they are scaled, or of another type."""
    model = network(tmp_path, "none" if matrix.dtype == np.float64 else "inside", matrix, **attributes)
    assert pieces.cut(model, PIECE) is model


def test_small_ones_and_those_inside_of_the_model_are_left(tmp_path):
    """They cost little, or lie in no file that is mapped."""
    model = network(tmp_path)
    assert pieces.cut(model, MATRIX.nbytes) is model
    inside = onnx.load_from_string(model)
    inside.graph.initializer[0].CopyFrom(numpy_helper.from_array(MATRIX, "weight"))
    assert pieces.cut(inside.SerializeToString(), PIECE) == inside.SerializeToString()


def test_a_bias_of_another_shape_is_left(tmp_path):
    """ONNX broadcasts it."""
    model = onnx.load_from_string(network(tmp_path))
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(BIAS[None], "bias"))
    assert pieces.cut(model.SerializeToString(), PIECE) == model.SerializeToString()


def test_a_matrix_that_is_computed_is_left(tmp_path):
    """It is no weight."""
    model = onnx.load_from_string(network(tmp_path))
    model.graph.initializer[0].name = "another"
    model.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, (ROWS, COLUMNS)))
    assert pieces.cut(model.SerializeToString(), PIECE) == model.SerializeToString()


def test_two_layers_may_share_their_weights(tmp_path):
    """And the answer of a layer may be the network's own."""
    model = onnx.load_from_string(network(tmp_path))
    model.graph.node.insert(1, helper.make_node("Gemm", ["x", "weight", "bias"], ["w"], "twin", transB=1))
    model.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, ("N", ROWS)))
    made = onnx.load_from_string(pieces.cut(model.SerializeToString(), PIECE))
    assert [node.op_type for node in made.graph.node] == [*["Gemm"] * 5, "Concat", *["Gemm"] * 5, "Concat", "Relu"]
    names = [tensor.name for tensor in made.graph.initializer]
    assert len(names) == len(set(names)) == 12
    assert np.array_equal(answers(made.SerializeToString(), tmp_path), answers(model.SerializeToString(), tmp_path))


def test_weights_that_say_another_length_are_left(tmp_path):
    """Rows would be cut out of the wrong places."""
    model = onnx.load_from_string(network(tmp_path))
    entry = next(each for each in model.graph.initializer[0].external_data if each.key == "length")
    entry.value = str(int(entry.value) - 4 * COLUMNS)
    assert pieces.cut(model.SerializeToString(), PIECE) == model.SerializeToString()


def test_dimensions_may_be_packed(tmp_path):
    """Other writers than the onnx package do so."""
    unpacked = protobuf.integer(1, ROWS) + protobuf.integer(1, 300)
    packed = protobuf.bytes_of(1, bytes([ROWS, 300 & 0x7F | 0x80, 300 >> 7]))
    for message in (unpacked, packed):
        assert [size for field in protobuf.raw(memoryview(message)) for size in protobuf.integers(field)] == [ROWS, 300]


@pytest.mark.parametrize("content", [b"\x3a\x05ab", b"\xff", b"\x3b"])
def test_what_is_no_message_is_an_error(content):
    """Never a guess."""
    with pytest.raises(protobuf.Malformed):
        pieces.cut(content)
