"""What is before a network's first layer → one operator that looks each byte up.

Casting, mean, scale and quantisation make one number of each byte of a channel; ONNX Runtime goes over a picture four to six
times for that. The numbers are read from ONNX Runtime itself, which is given every byte once: they are the same to the last bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from service import onnxgraph
from service.native.operators import DOMAIN
from service.onnxgraph import BYTE, FLOAT, Node, Replacement, Weights

BYTES, CHANNELS = 256, 3
APART = (0, 3, 1, 2)  # (N, height, width, 3) → (N, 3, height, width)
# Those that give a byte its number wherever it lies, or move it. That they do is seen by trying.
STEPS = frozenset({"Transpose", "Cast", "Reshape", "Sub", "Add", "Mul", "Div", "QuantizeLinear"})

Run = Callable[[bytes, NDArray[np.uint8]], NDArray[np.generic]]


def replace(model: bytes, height: int, width: int, run: Run) -> bytes:
    """Replace the nodes between the pixels and the first layer.

    Args:
        model: takes (N, height, width, 3) uint8.
        run: the output of a model for such pixels.
    Returns:
        A model that needs the operators' library; the same bytes where its front is of another kind.
    Raises:
        protobuf.Malformed: no such message.
    """
    chain = _chain(model)
    if len(chain) < 2 or height * width < BYTES:
        return model
    kind = BYTE if any(node.kind == "QuantizeLinear" for node in chain) else FLOAT
    front = onnxgraph.part(model, {node.outputs[0] for node in chain}, chain[-1].outputs[0], kind)
    operator, table = _table(lambda pixels: run(front, pixels), height, width)
    if table is None:
        return model

    def change(node: Node, _: Mapping[str, Weights]) -> Replacement | None:
        if node.outputs == chain[-1].outputs:
            name = f"{node.outputs[0]}/table"
            new = onnxgraph.node(operator, [chain[0].inputs[0], name], node.outputs, node.name, DOMAIN)
            return Replacement([new], {name: onnxgraph.initializer(name, table.shape, table.tobytes(), kind)})
        return Replacement([], {}) if node.outputs in [each.outputs for each in chain] else None

    return onnxgraph.replaced(model, change, DOMAIN)


def _chain(model: bytes) -> list[Node]:
    """Nodes from the input on, each of which alone reads what the one before makes, and constants."""
    nodes = [node for node, _ in onnxgraph.nodes(model)]
    read = Counter(name for node in nodes for name in node.inputs)
    readers = {node.inputs[0]: node for node in nodes if node.inputs}
    made = {name for node in nodes for name in node.outputs}
    given, answers = onnxgraph.ends(model)
    if len(given) != 1:
        return []
    (value,) = given
    chain: list[Node] = []
    while (
        (node := readers.get(value)) and read[value] == 1 and value not in answers and node.kind in STEPS and not node.domain
        and len(node.outputs) == 1 and not made & {*node.inputs[1:]}
    ):
        chain.append(node)
        (value,) = node.outputs
    return chain


def _table(
    run: Callable[[NDArray[np.uint8]], NDArray[np.generic]], height: int, width: int,
) -> tuple[str, NDArray[np.generic] | None]:
    """The operator, and a number for each byte of each channel (3, 256); None where there is no such table."""
    each = np.arange(height * width, dtype=np.uint8).repeat(CHANNELS)  # every byte, several times
    other = np.random.default_rng(0).integers(0, BYTES, each.size, np.uint8)
    pixels = np.stack([each, other]).reshape(2, height, width, CHANNELS)
    found = run(pixels)
    planes = found.dtype == np.float32
    if found.dtype not in (np.float32, np.uint8) or found.shape != (pixels.transpose(APART) if planes else pixels).shape:
        return "", None
    numbers = found if planes else found.transpose(APART)
    table = np.ascontiguousarray(numbers[0].reshape(CHANNELS, -1)[:, :BYTES])
    expected = np.stack([table[channel][pixels[..., channel]] for channel in range(CHANNELS)], 1)
    same = expected.tobytes() == numbers.tobytes()  # -0 and 0 too
    return ("LookUpPlanes" if planes else "LookUp"), table if same else None
