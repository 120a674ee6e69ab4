"""Small self-describing models with a known answer, built with the onnx package in the test session.

The network cuts the picture into quadrants, averages each, and answers with the brightest: class 0 is top left,
1 top right, 2 bottom left, 3 bottom right. Its logits are the means (from 0 to 1) times 8.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from service import recipe
from service.recipe import Golden, Input, Label, Layer, Preprocessing, Recipe

SIDE = 8
SHARPNESS = 8.0
LABELS = tuple(Label(f"q{row}", name) for row, name in enumerate(("top left", "top right", "bottom left", "bottom right")))
LAYERS = (Layer("quadrants", "average pooling", (4, 4), (4, 4), (0, 0, 0, 0), 3, (2, 2, 3), 0, 192),)


def quadrant_picture(bright: int, side: int = SIDE, light: int = 255, dark: int = 0) -> Image.Image:
    """A square picture, one quadrant of which is light; the model answers with its number."""
    half = side // 2
    image = Image.new("RGB", (side, side), (dark,) * 3)
    image.paste((light,) * 3, (bright % 2 * half, bright // 2 * half, bright % 2 * half + half, bright // 2 * half + half))
    return image


def png(image: Image.Image) -> bytes:
    """The picture as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def expected(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The right answer, without ONNX: (N, side, side, 3) uint8 → (N, 4) float32."""
    count, half = len(pixels), pixels.shape[1] // 2
    parts = pixels.reshape(count, 2, half, 2, half, 3).astype(np.float64) / 255
    logits = parts.mean(axis=(2, 4, 5)).reshape(count, 4) * SHARPNESS
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def build(
    path: Path,
    name: str = "quadrants",
    side: int = SIDE,
    mode: str = "exact",
    external: bool = False,
    wrong_golden: bool = False,
    without: tuple[str, ...] = (),
    input_type: int = TensorProto.UINT8,
    batch: str | int = "batch",
    batch_dependent: bool = False,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write such a model.

    Args:
        path: the ONNX file; its folder is made.
        name, side, mode: as the recipe names them.
        external: the weights go to `weights.bin` beside it.
        wrong_golden: its golden examples claim another answer.
        without: parts of the metadata left out, such as "labels".
        input_type, batch: of the input, to break decision 1.
        batch_dependent: each answer depends on the whole batch, as with ranges taken over it.
        metadata: replaces parts, as JSON text, by their name without "quadrant.".
    """
    half = side // 2
    scale = numpy_helper.from_array(np.full((3, 1, 1), 1 / 255, np.float32), "scale")
    channels = numpy_helper.from_array(np.full((1, 3, 1, 1), SHARPNESS / 3, np.float32), "channels")
    shape = numpy_helper.from_array(np.array([0, 4], np.int64), "shape")
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "scale"], ["scaled"]),  # (N, 3, side, side)
        helper.make_node("AveragePool", ["scaled"], ["means"], "quadrants", kernel_shape=[half, half], strides=[half, half]),
        helper.make_node("Conv", ["means", "channels"], ["summed"], "channels"),  # (N, 3, 2, 2) → (N, 1, 2, 2)
        helper.make_node("Reshape", ["summed", "shape"], ["logits"]),  # (N, 4)
    ]
    last = "logits"
    if batch_dependent:
        nodes += [helper.make_node("ReduceMean", [last], ["level"], keepdims=0),
                  helper.make_node("Mul", [last, "level"], ["levelled"])]
        last = "levelled"
    nodes.append(helper.make_node("Softmax", [last], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes, "quadrants",
        [helper.make_tensor_value_info("pixels", input_type, [batch, side, side, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, 4])],
        [scale, channels, shape],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    said = _metadata(model, name, side, mode, wrong_golden) | (metadata or {})
    helper.set_model_props(model, {f"quadrant.{key}": text for key, text in said.items() if key not in without})
    path.parent.mkdir(parents=True, exist_ok=True)
    if external:
        _move_out(model, path.parent / "weights.bin")
    path.write_bytes(model.SerializeToString())
    return path


def recipe_text(**others: Any) -> str:
    """The JSON text of a recipe; some of its parts replaced, whatever they hold."""
    numbers: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    made = Recipe(format=1, name="quadrants", input=Input(SIDE, SIDE), preprocessing=Preprocessing(resize=SIDE, **numbers))
    return json.dumps(msgspec.to_builtins(made) | others)


def choose(folder: Path, name: str) -> None:
    """Make a model the default one of a folder of several."""
    (folder / "default").write_text(f"{name}\n")


def _metadata(model: onnx.ModelProto, name: str, side: int, mode: str, wrong_golden: bool) -> dict[str, str]:
    numbers: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "mode": mode}
    golden = []
    for quadrant in range(4):
        image = quadrant_picture(quadrant, side)
        (answer,) = expected(np.asarray(image)[None])
        golden.append(Golden(png(image), tuple(map(float, answer[::-1] if wrong_golden else answer))))
    return {
        "recipe": Recipe(
            format=1, name=name, description="Finds the brightest quadrant.", architecture="quadrants",
            input=Input(side, side), preprocessing=Preprocessing(resize=side, **numbers),
            provenance={"by": "tests"},
        ).dump(),
        "labels": recipe.dump(LABELS),
        "golden": recipe.dump(golden),
        "layers": recipe.dump(LAYERS),
        "sha256": hashlib.sha256(b"".join(tensor.raw_data for tensor in model.graph.initializer)).hexdigest(),
    }


def _move_out(model: onnx.ModelProto, file: Path) -> None:
    """Move what the graph's shapes don't depend on into another file."""
    with file.open("wb") as stream:
        for tensor in model.graph.initializer:
            if tensor.name == "shape":
                continue
            place = {"location": file.name, "offset": stream.tell(), "length": len(tensor.raw_data)}
            stream.write(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
