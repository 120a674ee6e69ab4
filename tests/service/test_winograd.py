"""Which of a network's layers are replaced, and that it answers the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service import winograd
from service.native.operators import operators

SIDE, CHANNELS, FILTERS = 9, 64, 128
RANDOM = np.random.default_rng(11)
PICTURES = RANDOM.standard_normal((3, CHANNELS, SIDE, SIDE)).astype(np.float32)
NODE, VALUE = helper.make_node, helper.make_tensor_value_info


@pytest.fixture(scope="module", autouse=True)
def here():
    """ONNX Runtime keeps pictures in blocks."""
    if operators() is None:
        pytest.skip("no AVX2 here")


def network(channels: int = CHANNELS, filters: int = FILTERS, side: int = 3, activation: str = "Relu", bias: bool = True,
            added: bool = False, **attributes: Any) -> bytes:
    """A convolution, such as may be replaced unless something is asked for; `None` leaves an attribute out."""
    weights = RANDOM.standard_normal((filters, channels // attributes.get("group", 1), side, side)) / (side * channels**0.5)
    constants = {"w": weights.astype(np.float32), "b": RANDOM.standard_normal(filters).astype(np.float32)}
    said = {"pads": [1] * 4, "kernel_shape": [side] * 2} | attributes
    nodes = [NODE("Conv", ["x", "w", "b"] if bias else ["x", "w"], ["c"], "layer",
                  **{name: value for name, value in said.items() if value is not None})]
    if added:  # what a residual network adds becomes a part of the convolution
        nodes += [NODE("Conv", ["x", "w", "b"], ["c2"], "other", pads=[0, 0, 2, 2]), NODE("Add", ["c", "c2"], ["a"])]
    nodes.append(NODE(activation, ["a" if added else "c"], ["y"], "activation"))
    graph = helper.make_graph(
        nodes, "net", [VALUE("x", TensorProto.FLOAT, ["N", channels, SIDE, SIDE])], [VALUE("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()])
    content: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    return content


def session(model: bytes, beside: Path, saved: str = "") -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(beside))
    options.register_custom_ops_library(str(operators().file))
    if saved:
        options.optimized_model_filepath = str(beside / saved)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(found: onnxruntime.InferenceSession, pictures: NDArray[np.float32] = PICTURES) -> NDArray[Any]:
    return np.asarray(found.run(None, {"x": pictures})[0])


def replaced(model: bytes, folder: Path) -> tuple[bytes, bytes]:
    """As ONNX Runtime optimises it, before and after."""
    session(model, folder, "model.onnx")
    before = (folder / "model.onnx").read_bytes()
    return before, winograd.replace(before, folder, "new.bin", operators())


@pytest.mark.parametrize("asked", [
    {}, {"activation": "Identity"}, {"activation": "Elu"}, {"pads": [0, 1, 1, 0]}, {"filters": 64, "pads": None}], ids=str)
def test_a_layer_is_replaced(tmp_path, asked):
    """With the bias and the ReLU that belong to it; the answer is the same but for the order of sums."""
    before, after = replaced(network(**asked), tmp_path)
    kinds = [[node.op_type for node in onnx.load_from_string(model).graph.node] for model in (before, after)]
    assert kinds[1] == [winograd.KIND if kind == "Conv" else kind for kind in kinds[0]]
    expected = run(session(before, tmp_path))
    assert np.abs(run(session(after, tmp_path)) - expected).max() < 2e-6 * np.abs(expected).max()
    assert (tmp_path / "new.bin").stat().st_size == asked.get("filters", FILTERS) * CHANNELS * 16 * 4


@pytest.mark.parametrize("asked", [
    {"strides": [2, 2]}, {"dilations": [2, 2]}, {"group": 2}, {"side": 5}, {"side": 1}, {"pads": [2] * 4}, {"pads": [0, 0, 2, 2]},
    {"filters": 40}, {"channels": 3}, {"bias": False}, {"activation": "Sigmoid"}, {"added": True},
    {"auto_pad": "SAME_UPPER", "pads": None}, {"auto_pad": "VALID", "pads": None}], ids=str)
def test_another_layer_stays(tmp_path, asked):
    """What the operator doesn't do is ONNX Runtime's; the file is as it was."""
    before, after = replaced(network(**asked), tmp_path)
    assert after is before
    assert b"Conv" in after
    assert (tmp_path / "new.bin").stat().st_size == 0


def test_several_layers_lie_one_behind_the_other(tmp_path):
    """Each at the start of a page; what is small stays in the model."""
    arrays = {name: RANDOM.standard_normal((64, 64, 3, 3)) / 24 for name in "vw"} | {"b": np.ones(64)}
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    nodes = [NODE("Conv", ["x", "v", "b"], ["c"], pads=[1] * 4), NODE("Conv", ["c", "w", "b"], ["y"], pads=[1] * 4)]
    graph = helper.make_graph(nodes, "net", [VALUE("x", TensorProto.FLOAT, ["N", 64, SIDE, SIDE])],
                              [VALUE("y", TensorProto.FLOAT, None)], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    before, after = replaced(model, tmp_path)
    offsets = [int(entry.value) for tensor in onnx.load_from_string(after).graph.initializer for entry in tensor.external_data
               if entry.key == "offset" and tensor.name.endswith("winograd")]
    assert [offset % winograd.ALIGNMENT for offset in offsets] == [0, 0]
    expected = run(session(before, tmp_path))
    assert np.abs(run(session(after, tmp_path)) - expected).max() < 4e-6 * np.abs(expected).max()
