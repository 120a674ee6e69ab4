"""From photo bytes to the five best classes without the service: the same work, or the ceiling is of something else."""

from __future__ import annotations

import io
import json

import click
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from loadtest import inprocess
from loadtest.engines import Engine
from loadtest.inprocess import Model, Recipe
from loadtest.pictures import draw
from service import images
from service.recipe import Preprocessing
from tests import models

NUMBERS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.5)}


def recipe_text(height: int = 32, width: int = 32, **preprocessing: object) -> str:
    return json.dumps({"name": "one", "input": {"height": height, "width": width},
                       "preprocessing": {"resize": 40, **NUMBERS, **preprocessing}})


def jpeg(size: tuple[int, int], mode: str = "RGB", orientation: int = 1) -> bytes:
    image = Image.open(io.BytesIO(draw(1))).resize(size).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif, quality=90)
    return buffer.getvalue()


PHOTOS = [
    pytest.param(jpeg((200, 151)), id="landscape"),
    pytest.param(jpeg((151, 200)), id="portrait"),
    pytest.param(jpeg((500, 375)), id="large enough to be scaled"),
    pytest.param(jpeg((371, 203), orientation=6), id="sideways"),
    pytest.param(jpeg((203, 371), orientation=3), id="upside down"),
    pytest.param(jpeg((120, 90), "L"), id="grey"),
    pytest.param(jpeg((120, 90), "CMYK"), id="CMYK"),
]
RECIPES = [
    pytest.param({}, id="bilinear"),
    pytest.param({"interpolation": "bicubic"}, id="bicubic"),
    pytest.param({"resize_mode": "exact_size"}, id="squeezed"),
]


@pytest.mark.parametrize("preprocessing", RECIPES)
@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize(("decoding", "mode"), [("exact", "exact"), ("scaled", "fast")])
def test_pixels_are_those_of_the_service(photo, preprocessing, decoding, mode):
    """The ratio of the two is one of speed only if both do the same work."""
    found = inprocess.prepare(photo, Recipe.parse(recipe_text(32, 24, **preprocessing)), decoding)
    expected = images.prepare(photo, Preprocessing(resize=40, **NUMBERS, mode=mode, **preprocessing), width=24, height=32)
    np.testing.assert_array_equal(found, expected.pixels)


def test_scaled_decoding_scales():
    """Otherwise its figures would be those of exact decoding, twice."""
    recipe = Recipe.parse(recipe_text())
    whole, scaled = (inprocess.prepare(jpeg((500, 375)), recipe, decoding) for decoding in inprocess.DECODINGS)
    assert 0 < np.abs(whole.astype(int) - scaled).mean() < 8


@pytest.mark.parametrize(("text", "words"), [
    pytest.param(None, "has no quadrant.recipe", id="none"),
    pytest.param("{", "can't be read: JSONDecodeError", id="no JSON"),
    pytest.param('{"name": "one"}', "KeyError: 'input'", id="half of it"),
    pytest.param(recipe_text(interpolation="nearest"), "KeyError: 'nearest'", id="unknown interpolation"),
])  # fmt: skip
def test_a_recipe_that_cant_be_read_is_told(text, words):
    """A guessed preprocessing would be another amount of work."""
    with pytest.raises(click.ClickException, match=words):
        Recipe.parse(text)


def test_gates_are_read():
    """They decide what the model may run in."""
    gate = {"provider": "openvino", "precision": "bf16", "measured_on": 10000, "top1_loss": 0.0002}
    assert Recipe.parse(json.dumps(json.loads(recipe_text()) | {"gates": [gate]})).gates == {Engine("openvino", "bf16")}
    assert not Recipe.parse(recipe_text()).gates


def means(path, shape: list[object], kind: int = TensorProto.FLOAT, last: bool = False, **preprocessing: object) -> Model:
    """A model that answers with the mean of each channel that it is given."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["means"], axes=[1, 2] if last else [2, 3], keepdims=0)]
    if kind != TensorProto.FLOAT:
        nodes.insert(0, helper.make_node("Cast", ["given"], ["x"], to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes, "means", [helper.make_tensor_value_info("x" if kind == TensorProto.FLOAT else "given", kind, shape)],
        [helper.make_tensor_value_info("means", TensorProto.FLOAT, ["batch", 3])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {inprocess.KEY: recipe_text(**preprocessing)})
    onnx.save(model, path)
    return Model(path, 1, False)


@pytest.mark.parametrize(("shape", "kind", "last", "channels"), [
    pytest.param(["batch", 3, 32, 32], TensorProto.FLOAT, False, "rgb", id="channels first"),
    pytest.param(["batch", 32, 32, 3], TensorProto.FLOAT, True, "rgb", id="channels last"),
    pytest.param(["batch", 3, 32, 32], TensorProto.FLOAT, False, "bgr", id="blue first"),
    pytest.param(["batch", 3, 32, 32], TensorProto.FLOAT16, False, "rgb", id="half"),
])  # fmt: skip
def test_a_model_of_floats_gets_them_normalised(shape, kind, last, channels, tmp_path):
    """Models of others have no front in their graph; their normalisation is part of the work."""
    model = means(tmp_path / "m.onnx", shape, kind, last, channels=channels)
    photo = jpeg((200, 151))
    room = model.room(2)
    for row in room:
        model.fill(row, photo, "exact")
    pixels = inprocess.prepare(photo, model.recipe, "exact") / 255
    expected = ((pixels - NUMBERS["mean"]) / NUMBERS["std"]).mean((0, 1))[:: -1 if channels == "bgr" else 1]
    close = 1e-5 if kind == TensorProto.FLOAT else 2e-3
    np.testing.assert_allclose(model.probabilities(room), [expected] * 2, atol=close)


@pytest.mark.parametrize("shape", [
    pytest.param(["batch", 3, 24, 32], id="another size"),
    pytest.param([1, 3, 32, 32], id="one at a time"),
    pytest.param(["batch", 3072], id="flat"),
])  # fmt: skip
def test_another_input_is_refused(shape, tmp_path):
    """ONNX Runtime would refuse it too, in the middle of the sweep."""
    axes = {"last": True} if len(shape) < 4 else {}
    with pytest.raises(click.ClickException, match=r"takes \"x\".*expected one input, uint8 \(batch, 32, 32, 3\)|refuses it"):
        means(tmp_path / "m.onnx", shape, **axes)


def test_what_is_no_model_is_refused(tmp_path):
    """One line instead of a traceback."""
    (file := tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(click.ClickException, match="ONNX Runtime refuses it"):
        Model(file, 1, False)


def test_the_five_best_come_in_order():
    """As the service answers them; so that the work is the same, and the answers can be compared."""
    random = np.random.default_rng(1).random((3, 50), np.float32)
    for answer, row in zip(inprocess.best(random), random, strict=True):
        assert [*answer.classes] == np.argsort(-row)[:5].tolist()
        assert answer.probabilities == pytest.approx(np.sort(row)[::-1][:5])
    assert inprocess.best(random[:1, :2])[0].classes == tuple(np.argsort(-random[0, :2]).tolist())


def test_the_right_quadrant_is_found(model_folder):
    """A model with a known answer: bytes in, class out."""
    model = Model(model_folder / "quadrants" / "1" / "model.onnx", 1, False)
    room = model.room(4)
    for quadrant, row in enumerate(room):
        model.fill(row, models.png(models.quadrant_picture(quadrant)), "exact")
    assert [answer.classes[0] for answer in model.run(room)] == [0, 1, 2, 3]
