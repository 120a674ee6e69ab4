"""What is before the first layer as a look-up: the same bits, or it stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service import lookup
from service.native.operators import operators

HEIGHT, WIDTH = 20, 16
MEAN, SCALE = (np.array([123.7, 116.3, 103.5], np.float32), np.array([0.0171, 0.0175, 0.0174], np.float32))
PICTURES = np.random.default_rng(3).integers(0, 256, (3, HEIGHT, WIDTH, 3), np.uint8)
NODE, VALUE = helper.make_node, helper.make_tensor_value_info
PLANES: list[tuple[str, Any, dict[str, Any]]] = [
    ("Transpose", None, {"perm": [0, 3, 1, 2]}), ("Cast", None, {"to": TensorProto.FLOAT}),
    ("Sub", MEAN.reshape(3, 1, 1), {}), ("Mul", SCALE.reshape(3, 1, 1), {})]
ROWS: list[tuple[str, Any, dict[str, Any]]] = [
    ("Reshape", np.array([0, HEIGHT, 3 * WIDTH]), {}), ("Cast", None, {"to": TensorProto.FLOAT}),
    ("Sub", np.tile(MEAN, WIDTH), {}), ("Mul", np.tile(SCALE, WIDTH), {}),
    ("QuantizeLinear", (np.float32(0.019), np.uint8(110)), {}), ("Reshape", np.array([0, HEIGHT, WIDTH, 3]), {})]


@pytest.fixture(scope="module", autouse=True)
def library():
    """What the made models need."""
    if operators() is None:
        pytest.skip("no AVX2 here")


def network(steps: list[tuple[str, Any, dict[str, Any]]], second_reader: bool = False, shown: bool = False) -> bytes:
    """Steps one behind the other, and something that must stay."""
    nodes, constants, value = [], [], "pixels"
    for place, (kind, constant, attributes) in enumerate(steps):
        given = [] if constant is None else list(constant) if isinstance(constant, tuple) else [constant]
        names = [f"{kind}{place}_{number}" for number in range(len(given))]
        constants += [numpy_helper.from_array(np.asarray(each), name) for each, name in zip(given, names, strict=True)]
        nodes.append(NODE(kind, [value, *names], [f"v{place}"], f"{kind}{place}", **attributes))
        value = f"v{place}"
    nodes.append(NODE("Identity" if steps is ROWS else "Sin", [value], ["y"], "last"))
    outputs = [VALUE("y", TensorProto.UINT8 if steps is ROWS else TensorProto.FLOAT, None)]
    if second_reader:
        nodes.append(NODE("Cos", ["v1"], ["z"], "other"))
        outputs.append(VALUE("z", TensorProto.FLOAT, None))
    if shown:
        outputs.append(VALUE("v1", TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "net", [VALUE("pixels", TensorProto.UINT8, ["N", HEIGHT, WIDTH, 3])], outputs, constants)
    content: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    return content


def run(model: bytes, pixels: NDArray[np.uint8]) -> NDArray[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(operators().file))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"pixels": pixels})[0])


def kinds(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(model).graph.node]


@pytest.mark.parametrize(("steps", "kind"), [(PLANES, "LookUpPlanes"), (ROWS, "LookUp"), (PLANES[:2], "LookUpPlanes")],
                         ids=["planes", "rows", "not normalised"])
def test_it_gives_the_same_bits(steps, kind):
    """In a third of the passes over the picture."""
    model = network(steps)
    made = lookup.replace(model, HEIGHT, WIDTH, run)
    assert kinds(made) == [kind, kinds(model)[-1]]
    assert run(made, PICTURES).tobytes() == run(model, PICTURES).tobytes()


@pytest.mark.parametrize("model", [
    pytest.param(network([*PLANES, ("Mul", np.linspace(0, 1, WIDTH, dtype=np.float32), {})]), id="it matters where a byte lies"),
    pytest.param(network([*PLANES, ("Transpose", None, {"perm": [0, 1, 3, 2]})]), id="sides are swapped"),
    pytest.param(network([("Reshape", np.array([0, HEIGHT, WIDTH, 3]), {}), PLANES[1]]), id="floats side by side"),
    pytest.param(network([("Gather", np.array([2, 1, 0]), {"axis": 3}), *PLANES]), id="channels change places"),
    pytest.param(network(PLANES[1:2]), id="a single step")])
def test_another_front_stays(model):
    """It is seen by trying, not by its name."""
    assert lookup.replace(model, HEIGHT, WIDTH, run) is model


@pytest.mark.parametrize("asked", ["second_reader", "shown"])
def test_what_somebody_else_reads_is_still_made(asked):
    """Only the steps before that are replaced."""
    model = network(PLANES, **{asked: True})
    made = lookup.replace(model, HEIGHT, WIDTH, run)
    assert kinds(made)[:3] == ["LookUpPlanes", "Sub", "Mul"]
    assert run(made, PICTURES).tobytes() == run(model, PICTURES).tobytes()


def test_a_small_picture_does_not_hold_each_byte():
    """There is no table then."""
    model = network(PLANES)
    assert lookup.replace(model, 15, 16, run) is model
