"""Random convolutions and look-ups by a library's operators: `python -m tests.service.native.operator_cases LIBRARY SEED COUNT`.

In a process of its own, for a library that was compiled with sanitizers. Prints how many were compared.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service import winograd
from service.native import library
from service.native.operators import DOMAIN, Operators

Array = NDArray[Any]


def groups() -> dict[int, int]:
    """Filters of a group for each number of lanes that this processor has."""
    code = library.loaded()
    return {lanes: found for lanes in (16, 8) if (found := code.quadrant_group(lanes))}


class Layer(NamedTuple):
    """A convolution of 3 × 3, and pictures for it."""

    pictures: Array  # (N, channels, height, width)
    weights: Array  # (filters, channels, 3, 3)
    bias: Array  # (filters,)
    pads: list[int]  # top, left, bottom, right
    relu: bool

    @classmethod
    def drawn(cls, count: int, channels: int, filters: int, height: int, width: int, pads: list[int], relu: bool = True) -> Layer:
        """Of numbers such as a trained network has."""
        numbers = np.random.default_rng(random.randrange(2**32))
        deviation = (2 / (9 * channels)) ** 0.5
        return cls(numbers.standard_normal((count, channels, height, width)).astype(np.float32),
                   (numbers.standard_normal((filters, channels, 3, 3)) * deviation).astype(np.float32),
                   numbers.standard_normal(filters).astype(np.float32), pads, relu)

    def by_onnx_runtime(self) -> Array:
        """(N, filters, height, width)."""
        nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=self.pads, kernel_shape=[3, 3]),
                 helper.make_node("Relu" if self.relu else "Identity", ["c"], ["y"])]
        return run(model(nodes, self.pictures, {"w": self.weights, "b": self.bias}), self.pictures)


def model(nodes: list[onnx.NodeProto], given: Array, constants: dict[str, Array], made: int = TensorProto.FLOAT) -> bytes:
    """From `x` to `y`."""
    value, kind = helper.make_tensor_value_info, helper.np_dtype_to_tensor_dtype(given.dtype)
    graph = helper.make_graph(nodes, "net", [value("x", kind, [None] * given.ndim)], [value("y", made, None)],
                              [numpy_helper.from_array(array, name) for name, array in constants.items()])
    versions = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    content: bytes = helper.make_model(graph, opset_imports=versions, ir_version=8).SerializeToString()
    return content


def run(content: bytes, pictures: Array, file: Path | None = None, threads: int = 1) -> Array:
    """The answer; memory of the run lies in blocks of its own, at whose ends a sanitizer looks."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level, options.enable_cpu_mem_arena = threads, 4, False
    if file:
        options.register_custom_ops_library(str(file))
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": pictures})[0])


def blocked(planes: Array, lanes: int) -> Array:
    """(N, channels, height, width) → the same shape, in the order (N, channels / lanes, height, width, lanes)."""
    count, channels, height, width = planes.shape
    blocks = planes.reshape(count, channels // lanes, lanes, height, width).transpose(0, 1, 3, 4, 2)
    return np.ascontiguousarray(blocks).reshape(planes.shape)


def transformed(weights: Array, lanes: int) -> Array:
    """As the operator takes them."""
    filters, channels = weights.shape[:2]
    blocks = weights.reshape(filters // lanes, lanes, channels // lanes, lanes, 3, 3).transpose(0, 2, 4, 5, 3, 1)
    operators = Operators(Path(), lanes, groups()[lanes], "")
    return winograd.transformed(np.ascontiguousarray(blocks).reshape(weights.shape), operators)


def by_winograd(layer: Layer, lanes: int, file: Path, threads: int = 1, **changed: Any) -> Array:
    """By the operator, blocked; `u`, `b` or some `attributes` may be others."""
    constants = {"u": transformed(layer.weights, lanes), "b": layer.bias}
    constants |= {name: changed.pop(name) for name in constants if name in changed}
    attributes = {"lanes": lanes, "pads": layer.pads, "relu": int(layer.relu)} | changed.get("attributes", {})
    node = helper.make_node(winograd.KIND, ["x", "u", "b"], ["y"], domain=DOMAIN, **attributes)
    pictures, whole = layer.pictures, layer.pictures.ndim == 4 and not layer.pictures.shape[1] % lanes
    return run(model([node], pictures, constants), blocked(pictures, lanes) if whole else pictures, file, threads)


def apart(layer: Layer, found: Array, lanes: int) -> float:
    """The largest difference, in units of the largest number."""
    expected = blocked(layer.by_onnx_runtime(), lanes)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def main() -> None:
    """Compare."""
    file, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    random.seed(seed)
    for _ in range(count):
        lanes, threads = random.choice(list(groups())), random.choice([1, 2])
        sides = random.randint(1, 24), random.randint(1, 24)
        pads = [random.randint(0 if min(sides) > 2 else 1, 1) for _ in range(4)]
        channels, filters = lanes * random.randint(1, 12), groups()[lanes] * random.randint(1, 3)
        layer = Layer.drawn(random.randint(1, 5), channels, filters, *sides, pads, random.random() < 0.5)
        assert apart(layer, by_winograd(layer, lanes, file, threads), lanes) < 5e-6, (lanes, layer.pictures.shape, pads)
    print(count)


if __name__ == "__main__":
    main()
