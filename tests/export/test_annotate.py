"""Bare classifiers from anywhere, in the forms in which they come."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from export.__main__ import main
from service.engine import Engine
from service.modelfile import ModelFile
from tests.export.graphs import CLASSES, SIDE, WORDS, bare_graph

USUAL = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
MEAN, STD = np.asarray([0.485, 0.456, 0.406]), np.asarray([0.229, 0.224, 0.225])


@pytest.fixture
def place(tmp_path):
    """A folder with labels in it."""
    (tmp_path / "labels.json").write_text(json.dumps([{"id": wnid, "label": word} for wnid, word in WORDS]))
    return tmp_path


def run(place, file, *options):
    """`annotate` as a user types it."""
    output = ("--labels", str(place / "labels.json"), "--output", str(place / "models" / "bare" / "1"))
    return CliRunner().invoke(main, ["annotate", str(file), *output, *options])


def annotated(place, file, *options):
    """The model that the service opens."""
    result = run(place, file, *options)
    assert result.exit_code == 0, result.output
    return ModelFile.open(place / "models" / "bare" / "1" / "model.onnx")


def asked(file, values, layout="nchw"):
    """The bare model's own answers to normalised pictures (N, height, width, 3), one at a time."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    kind = np.float16 if "float16" in source.type else np.float32
    values = (values if layout == "nhwc" else values.transpose(0, 3, 1, 2)).astype(kind)
    rows = [session.run(None, {source.name: row[None]})[0].reshape(1, -1) for row in values]
    return np.concatenate(rows).astype(np.float64)


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def pictures(count=3, size=(SIDE, SIDE)):
    return np.random.default_rng(2).integers(0, 256, (count, *size, 3), np.uint8)


@pytest.mark.parametrize("batch", [pytest.param(1, id="batch 1"), pytest.param(None, id="any batch")])
@pytest.mark.parametrize("ending", ["logits", "softmax", "hidden softmax", "maps"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_every_form_answers_as_before(place, bare, layout, ending, batch):
    """Channels first or last, logits or probabilities, fixed batch or not: the answers stay, the batch becomes free."""
    file = bare(layout=layout, ending=ending, batch=batch)
    model = annotated(place, file, *USUAL)
    found = asked(file, (pictures() / 255 - MEAN) / STD, layout)
    expected = found if "softmax" in ending else softmax(found)
    engine = Engine(model, "cpu")
    assert np.abs(engine.run(pictures()) - expected).max() <= 1e-5
    assert np.abs(engine.run(pictures()[:1]) - expected[:1]).max() <= 1e-5


def test_a_network_on_0_to_255_gets_its_numbers(place, bare):
    """EfficientNet-Lite wants (x - 127) / 128; its recipe says so on the scale of all recipes."""
    model = annotated(place, bare(), "--range", "0-255", "--mean", "127", "--std", "128")
    expected = softmax(asked(place / "bare.onnx", (pictures() - 127.0) / 128))
    assert np.abs(Engine(model, "cpu").run(pictures()) - expected).max() <= 1e-5
    assert model.recipe.preprocessing.mean == pytest.approx([127 / 255] * 3)


def test_a_network_that_takes_raw_values_gets_them(place, bare):
    """Nothing is subtracted or multiplied where the network does it itself."""
    model = annotated(place, bare(), "--range", "0-255", "--mean", "0", "--std", "1")
    graph = onnx.load(model.path).graph
    assert [node.op_type for node in graph.node][:3] == ["Transpose", "Cast", "Conv"]


def test_blue_first_is_turned(place, bare):
    """Networks that came by way of Caffe; mean and std are given for red, green, blue as ever."""
    model = annotated(place, bare(), *USUAL, "--channels", "bgr")
    expected = softmax(asked(place / "bare.onnx", ((pictures() / 255 - MEAN) / STD)[..., ::-1]))
    assert np.abs(Engine(model, "cpu").run(pictures()) - expected).max() <= 1e-5


@pytest.mark.parametrize("ending", ["logits", "softmax", "hidden softmax"])
def test_temperature_softens_logits_and_probabilities_alike(place, bare, ending):
    """Calibration must not depend on where the exporter stopped."""
    model = annotated(place, bare(ending=ending), *USUAL, "--temperature", "2")
    found = asked(place / "bare.onnx", (pictures() / 255 - MEAN) / STD)
    logits = np.log(found) if "softmax" in ending else found
    assert np.abs(Engine(model, "cpu").run(pictures()) - softmax(logits / 2)).max() <= 1e-5


def test_half_precision_is_held_to_its_own_rule(place, bare):
    """float16 weights stay; what leaves the model is float32."""
    model = annotated(place, bare(half=True), *USUAL)
    assert model.recipe.precision == "fp16"
    expected = softmax(asked(place / "bare.onnx", (pictures() / 255 - MEAN) / STD))
    assert np.abs(Engine(model, "cpu").run(pictures()) - expected).max() <= 2e-3


def test_a_picture_need_not_be_square(place, bare):
    """Height first, in the file and in the recipe."""
    model = annotated(place, bare(size=(12, 20)), *USUAL)
    assert (model.recipe.input.height, model.recipe.input.width) == (12, 20)
    assert Engine(model, "cpu").run(pictures(size=(12, 20))).shape == (3, CLASSES)


def test_one_of_several_outputs_is_chosen(place, bare, tmp_path):
    """Networks with auxiliary heads name them."""
    model = bare_graph()
    model.graph.output.append(onnx.helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, [1, 8, 1, 1]))
    file = tmp_path / "two.onnx"
    onnx.save(model, file)
    refused = run(place, file, *USUAL)
    assert (
        refused.exit_code,
        "2 outputs (probabilities, mean); expected one: choose it with --head" in refused.output,
    ) == (2, True)
    assert annotated(place, file, *USUAL, "--head", "probabilities").recipe.name == "bare"


def test_the_chosen_output_need_not_be_the_last_node(place, bare, tmp_path):
    """A second softmax over probabilities would be nearly flat, and still sum to 1."""
    model = bare_graph(ending="softmax")
    model.graph.node.append(onnx.helper.make_node("Relu", [model.graph.output[0].name], ["copy"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("copy", onnx.TensorProto.FLOAT, None))
    file = tmp_path / "softmax-inside.onnx"
    onnx.save(model, file)
    chosen = model.graph.output[0].name
    found = annotated(place, file, *USUAL, "--head", chosen)
    assert max(max(golden.probabilities) for golden in found.golden) > 2 / len(found.labels)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        pytest.param({"channels": 1}, USUAL, "is float (1, 1, 16, 16); expected 3 channels", id="grey"),
        pytest.param(
            {"ending": "sigmoid"},
            USUAL,
            "expected logits, or probabilities that sum to 1: --outputs says which",
            id="sigmoid",
        ),
        pytest.param({}, (), "mean and std were not given", id="no mean"),
        pytest.param({}, (*USUAL, "--size", "20"), "--size asks for 20 × 20", id="another size"),
        pytest.param({"opset": 6}, USUAL, "opset 6; expected 7", id="too old"),
        pytest.param(
            {"ending": "logits"},
            (*USUAL, "--outputs", "probabilities"),
            "expected probabilities that sum to 1",
            id="logits called probabilities",
        ),
    ],
)
def test_what_cannot_be_annotated_is_refused_in_one_line(place, bare, kind, options, message):
    """Exit 2, found and expected, nothing written."""
    result = run(place, bare(**kind), *options)
    assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output
    assert message in result.output
    assert not (place / "models").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "can't be read as ONNX (No such file or directory)", id="not there"),
        pytest.param(b"%PDF-1.7 and so on", "expected", id="something else"),
        pytest.param(b"", "holds no graph", id="empty"),
    ],
)
def test_what_is_no_onnx_is_refused_in_one_line(place, content, message):
    """Whatever protobuf has to say about it."""
    file = place / "x.onnx"
    if content is not None:
        file.write_bytes(content)
    result = run(place, file, *USUAL)
    assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output
    assert message in result.output


def test_a_described_model_is_not_wrapped_twice(place, bare):
    """Its input is bytes already."""
    model = annotated(place, bare(), *USUAL)
    result = run(place, model.path, "--output", str(place / "models" / "again" / "1"), *USUAL)
    assert (result.exit_code, "describes itself already" in result.output) == (2, True)


def test_labels_must_be_as_many_as_outputs(place, bare):
    """A list that is one short shifts every name."""
    (place / "labels.json").write_text('["a", "b"]')
    result = run(place, bare(), *USUAL)
    assert (result.exit_code, "network has 5 classes; the labels file has 2" in result.output) == (2, True)
