"""int8 behind its gate, and calibration of what is published: on a network that knows colours."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from export import architectures, calibrate, calibration, gate, published, quantize
from export.__main__ import main
from export.refusal import Refusal
from service.answer import Options, check, say
from service.engine import Engine
from service.modelfile import ModelFile
from service.problems import BadOption

COLOURS = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}
SIDE = 16
MODELS = Path(__file__).parents[2] / "models"


class Eye(nn.Module):
    """Filters that see one colour against the others, then a vote over all places."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 1), nn.ReLU())
        self.classifier = nn.Linear(6 * 8 * 8, classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, 16, 16) → (N, 3)."""
        return self.classifier(torch.flatten(self.features(pixels), 1))


def seeing() -> Eye:
    """Weights by hand, with a little noise so that no two scores are equal."""
    torch.manual_seed(0)
    eye = Eye()
    with torch.no_grad():
        for weights in eye.parameters():
            weights.mul_(0.05)
        for colour in range(3):
            eye.features[0].weight[colour] -= 0.05
            eye.features[0].weight[colour, colour] += 0.15
            eye.features[3].weight[colour, colour, 0, 0] += 1
            eye.classifier.weight.view(3, 6, 8, 8)[colour, colour] += 0.1
    return eye.eval()


def picture(random: np.random.Generator, colour: str) -> Image.Image:
    """Mostly of one colour, under noise that sometimes wins."""
    pixels = np.array(COLOURS[colour]) * random.uniform(0.3, 1) + random.normal(0, 60, 3) + random.normal(0, 30, (SIDE, SIDE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def complaints(model: Path) -> str:
    """What a plain ONNX Runtime writes to standard error while it loads a model, in a process that nobody has quieted."""
    load = "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
    said = subprocess.run([sys.executable, "-c", load, str(model)], capture_output=True, text=True, check=True).stderr
    return "\n".join(line for line in said.splitlines() if "device_discovery" not in line)  # about the machine, not the model


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """One folder a class; a quarter of the training pictures is kept back."""
    top, random = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for part, count in (("train", 100), ("val", 60)):
        for colour in COLOURS:
            folder = top / part / colour
            folder.mkdir(parents=True)
            for number in range(count):
                picture(random, colour).save(folder / f"{number}.png")
    return top


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """The real limits ask for more pictures than a test should draw, and for a quiet machine."""
    monkeypatch.setattr(calibrate, "LEAST", 50)
    monkeypatch.setattr(gate, "FEWEST", 4)
    monkeypatch.setattr(gate, "_speed", lambda *_: gate.Speed(100, 200, 2.0, 1.9, 2.1))


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    """The network, published in fp32."""
    architectures.names()
    monkeypatch.setattr(architectures, "_registered", dict(architectures._registered))
    architectures.register(architectures.Architecture("eye", Eye, side=SIDE, resize=SIDE, classes=3))
    torch.save(seeing().state_dict(), tmp_path / "weights.pth")
    (tmp_path / "labels.json").write_text(json.dumps(sorted(COLOURS, key=list(COLOURS).index)))
    output = tmp_path / "models" / "eye" / "1"
    done = CliRunner().invoke(main, ["convert", "--architecture", "eye", "--weights", str(tmp_path / "weights.pth"),
                                     "--labels", str(tmp_path / "labels.json"), "--output", str(output)])  # fmt: skip
    assert done.exit_code == 0, done.output
    return output


def test_int8_is_published_with_what_was_measured(model, labelled):
    """A model of its own: smaller, in int8, with its own golden examples, temperature and record."""
    output = model.parent.parent / "eye-int8" / "1"
    done = CliRunner().invoke(
        main, ["quantize", str(model), "--calibration", str(labelled), "--validation", str(labelled), "--output", str(output)]
    )
    assert done.exit_code == 0, done.output
    assert "points lost" in done.output
    opened = ModelFile.open(output / "model.onnx")
    record = opened.recipe.provenance["quantised"]
    assert opened.recipe.name == "eye-int8"
    assert opened.recipe.precision == "int8"
    assert opened.recipe.calibration.measured_on == 180
    assert record["gate"] == "open"
    assert record["weight_bits"] == 7
    assert record["agreement"] > 0.97
    assert record["from"] == ModelFile.open(model / "model.onnx").digest
    Engine(opened, "cpu").prove()


def test_onnx_runtime_has_nothing_to_say_about_it(model, labelled):
    """What quantisation left unused was warned of at each load; a reader of the log can't tell that it does no harm."""
    output = model.parent.parent / "eye-int8" / "1"
    gate.run(model, gate.Asked(labelled), output)
    assert complaints(output / "model.onnx") == ""


@pytest.mark.parametrize("place", sorted(MODELS.glob("*/*/model.onnx")), ids=lambda place: place.parts[-3])
def test_onnx_runtime_has_nothing_to_say_about_what_is_published(place):
    """The same of the models that come with the project."""
    assert complaints(place) == ""


def test_what_nothing_reads_would_be_told(model, tmp_path):
    """The two tests above see it."""
    _, graph = published.read(model)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, np.float32), "left/over"))
    onnx.save(graph, tmp_path / "model.onnx")
    assert "left/over" in complaints(tmp_path / "model.onnx")


def test_only_the_front_and_the_end_stay_in_float(model, labelled):
    """Whatever else computes in float costs the speed that int8 is for; a quantised last layer costs accuracy."""
    opened, graph = published.read(model)
    small = quantize.quantize(graph, quantize.sample(labelled, opened.recipe))
    makers = {name: node for node in small.graph.node for name in node.output}
    weights = {tensor.name: tensor for tensor in small.graph.initializer}
    for node in small.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert all(makers[name].op_type == "DequantizeLinear" for name in node.input), node.name
            stored = onnx.numpy_helper.to_array(weights[makers[node.input[1]].input[0]])
            assert stored.dtype == np.int8
            assert 32 < np.abs(stored.astype(int)).max() <= 64  # 7 bits: sums of two products fit 16
    assert makers[published.logits(small)].op_type == "Gemm"


def test_the_first_layers_stay_in_float_where_that_is_asked_for(model, labelled):
    """The most sensitive ones, at little cost; recorded, and computed in float when it runs too."""
    opened, graph = published.read(model)
    small = quantize.quantize(graph, quantize.sample(labelled, opened.recipe), float_first=1)
    makers = {name: node for node in small.graph.node for name in node.output}
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in small.graph.initializer}
    first, *others = [node for node in small.graph.node if node.op_type in ("Conv", "Gemm")]
    assert weights[first.input[1]].dtype == np.float32
    assert makers.get(first.input[0]).op_type != "DequantizeLinear"
    assert [weights[makers[node.input[1]].input[0]].dtype for node in others] == [np.int8] * 2
    output = model.parent.parent / "eye-int8" / "1"
    command = ["quantize", str(model), "--calibration", str(labelled), "--float-first", "1", "--output", str(output)]
    assert CliRunner().invoke(main, command).exit_code == 0
    assert ModelFile.open(output / "model.onnx").recipe.provenance["quantised"]["float_first"] == 1


def test_no_layer_in_float_is_what_it_was(model, labelled):
    """The option changes nothing for those who don't use it; layers without names are told apart all the same."""
    opened, graph = published.read(model)
    pixels = quantize.sample(labelled, opened.recipe)
    named = quantize.quantize(graph, pixels)
    for node in graph.graph.node:
        if node.op_type in ("Conv", "Relu", "MaxPool"):
            node.name = ""
    nameless = quantize.quantize(graph, pixels, float_first=0)
    assert [node.op_type for node in nameless.graph.node] == [node.op_type for node in named.graph.node]
    one_less = quantize.quantize(graph, pixels, float_first=1)
    stored = {tensor.name: tensor.data_type for tensor in one_less.graph.initializer}
    assert [node.input[1] in stored for node in one_less.graph.node if node.op_type == "Conv"] == [True, False]


def test_a_network_that_would_stay_in_float_is_refused(model, labelled):
    """It would be called int8 and be none."""
    output = model.parent.parent / "eye-int8" / "1"
    command = ["quantize", str(model), "--calibration", str(labelled), "--float-first", "3", "--output", str(output)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert "--float-first is 3; expected fewer than the 3 layers with weights" in done.output
    assert not output.exists()


def test_int8_kernels_do_what_the_graph_says(model, labelled):
    """The same graph computed in float is the reference; a picture's answer doesn't depend on its company."""
    opened, graph = published.read(model)
    pixels = quantize.sample(labelled, opened.recipe)
    small = quantize.quantize(graph, pixels)
    ask, in_float = (published.scorer(small, model, optimised) for optimised in (True, False))
    np.testing.assert_allclose(ask(pixels).probabilities, in_float(pixels).probabilities, atol=0.01)
    alone = np.concatenate([ask(pixels[row : row + 1]).probabilities for row in range(16)])
    np.testing.assert_allclose(ask(pixels[:16]).probabilities, alone, atol=1e-6)


def test_what_loses_too_much_is_refused(model, labelled, tmp_path):
    """Ranges taken from black pictures fit no others."""
    black = tmp_path / "black"
    black.mkdir()
    for number in range(4):
        Image.new("RGB", (SIDE, SIDE)).save(black / f"{number}.png")
    output = model.parent.parent / "eye-int8" / "1"
    command = ["quantize", str(model), "--calibration", str(black), "--validation", str(labelled), "--output", str(output)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert "points of top-1; allowed are 0.5" in done.output
    assert not output.parent.exists()
    forced = CliRunner().invoke(main, [*command, "--force"])
    assert forced.exit_code == 0, forced.output
    (reason,) = ModelFile.open(output / "model.onnx").recipe.provenance["quantised"]["gate"]
    assert "points of top-1" in reason


def test_without_labels_agreement_with_fp32_decides(model, tmp_path, labelled, monkeypatch):
    """Nobody knows the right answers, but fp32's are known."""
    output = model.parent.parent / "eye-int8" / "1"
    photos = labelled / "val"
    outcome = gate.run(model, gate.Asked(photos), output)
    assert outcome.loss is None
    assert outcome.calibration is None
    assert outcome.agreement >= 0.98
    monkeypatch.setattr(gate, "LEAST_AGREEMENT", 1.01)
    with pytest.raises(gate.GateClosed, match=r"int8 gives fp32's best class on .* of \d+ pictures; expected 101%"):
        gate.run(model, gate.Asked(photos), output.with_name("2"))


def test_some_of_the_classes_measure_but_do_not_calibrate(model, labelled, tmp_path):
    """Thresholds that were fitted on two classes would be wrong about the third."""
    tree = tmp_path / "two"
    for part in ("train", "val"):
        for colour in ("red", "blue"):
            shutil.copytree(labelled / part / colour, tree / part / colour)
    outcome = gate.run(model, gate.Asked(labelled, tree, max_loss=5), model.parent.parent / "eye-int8" / "1")
    assert outcome.top1 is not None
    assert outcome.calibration is None


def test_what_is_not_faster_is_refused(model, labelled, monkeypatch):
    """A slower int8 is a loss without a gain."""
    monkeypatch.setattr(gate, "_speed", lambda *_: gate.Speed(100, 80, 0.8, 0.7, 0.9))
    with pytest.raises(gate.GateClosed, match=r"int8 does 0.80 times fp32's images/s on this machine; expected more than 1"):
        gate.run(model, gate.Asked(labelled), model.parent.parent / "eye-int8" / "1")


@pytest.mark.parametrize(("bits", "why"), [(8, "sums overflow here, choose --bits 7"), (7, "their roundings add up")])
def test_kernels_that_do_something_else_are_refused(model, labelled, monkeypatch, bits, why):
    """Saturated sums give other answers than the graph does; with 7 bits they can't be the reason."""
    monkeypatch.setattr(gate, "LEAST_KERNELS", 1.01)
    with pytest.raises(gate.GateClosed, match=f"expected 101%: {why}"):
        gate.run(model, gate.Asked(labelled, bits=bits), model.parent.parent / "eye-int8" / "1")


def test_ties_are_no_disagreement():
    """Roundings decide between two classes that are next to equal; a class that was far behind is another answer."""
    wanted = np.array([[0.5, 0.495, 0.005], [0.5, 0.3, 0.2], [0.4, 0.35, 0.25], [0.1, 0.2, 0.7]], np.float32)
    found = np.array([[0.4, 0.5, 0.1], [0.6, 0.2, 0.2], [0.3, 0.4, 0.3], [0.1, 0.1, 0.8]], np.float32)
    assert gate._same_but_for_ties(found, wanted) == 0.75


def test_a_handful_of_pictures_is_refused(model, labelled, tmp_path, monkeypatch):
    """One picture agrees with itself."""
    monkeypatch.setattr(gate, "FEWEST", 1000)
    with pytest.raises(Refusal, match="holds 225 pictures; expected 1000 at least to take ranges from"):
        gate.run(model, gate.Asked(labelled), model.parent.parent / "eye-int8" / "1")
    with pytest.raises(Refusal, match="--max-loss is nan; expected points of top-1, from 0 to 100"):
        gate.run(model, gate.Asked(labelled, max_loss=float("nan")), model.parent.parent / "eye-int8" / "1")


def test_a_relu_at_the_end_stays(tmp_path, labelled, model):
    """The tools drop a ReLU behind a quantised layer; behind the last layer there is nothing that clips in its place."""
    _, graph = published.read(model)
    makers = {name: node for node in graph.graph.node for name in node.output}
    last = makers[published.logits(graph)]
    name = last.output[0]
    last.output[0] = "sums"
    graph.graph.node.insert(list(graph.graph.node).index(last) + 1, onnx.helper.make_node("Relu", ["sums"], [name], "end"))
    opened = ModelFile.open(model / "model.onnx")
    pixels = quantize.sample(labelled, opened.recipe)
    small = quantize.quantize(graph, pixels)
    fp32, int8 = (published.scorer(each, tmp_path)(pixels).logits for each in (graph, small))
    assert fp32.min() == 0
    assert int8.min() == 0
    assert np.abs(fp32 - int8).max() < 0.1 * fp32.max()


def test_graphs_of_older_opsets_are_quantised_too(tmp_path, labelled, model):
    """Scales a channel need opset 13; `annotate` takes 7 and later."""
    opened, graph = published.read(model)
    old = onnx.ModelProto()
    old.CopyFrom(graph)
    old.opset_import[0].version = 11  # its nodes mean the same there
    pixels = quantize.sample(labelled, opened.recipe)
    ask = published.scorer(quantize.quantize(old, pixels), tmp_path)
    assert (ask(pixels).logits.argmax(1) == published.scorer(graph, tmp_path)(pixels).logits.argmax(1)).mean() > 0.97


def test_a_precision_that_nothing_reaches_is_refused(model, labelled, monkeypatch):
    """A model that never abstains, asked to be right always, would be a promise that isn't kept."""
    monkeypatch.setattr(calibration, "abstain_below", lambda *_: None)
    with pytest.raises(Refusal, match="no score of eye gives 99% right answers on the 75 pictures to fit on"):
        calibrate.calibrate(model, labelled, model.parent / "2", 0.99)


def test_int8_is_not_quantised_again(model, labelled):
    """Errors of two roundings add up in silence."""
    output = model.parent.parent / "eye-int8" / "1"
    gate.run(model, gate.Asked(labelled), output)
    with pytest.raises(Refusal, match="is int8 already; expected a model in fp32"):
        gate.run(output, gate.Asked(labelled), output.with_name("2"))


def test_calibration_makes_scores_probabilities(model, labelled):
    """Temperature, thresholds and figures go into a version of its own; the answers' order stays."""
    output = model.parent / "2"
    command = ["calibrate", str(model), "--data", str(labelled), "--output", str(output), "--precision", "0.8"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    before, after = (ModelFile.open(each / "model.onnx") for each in (model, output))
    found = after.recipe.calibration
    assert found.fitted_on == 75
    assert found.measured_on == 180
    assert after.recipe.temperature != 1
    assert found.ece_after < found.ece_before
    pixels = quantize.sample(labelled, before.recipe)
    old, new = (Engine(each, "cpu").run(pixels) for each in (before, after))
    assert (old.argmax(axis=1) == new.argmax(axis=1)).all()
    sharpened = old ** (1 / after.recipe.temperature)
    np.testing.assert_allclose(new, sharpened / sharpened.sum(axis=1, keepdims=True), atol=1e-4)


def test_a_calibrated_model_abstains_and_gives_prediction_sets(model, labelled):
    """What the recipe says is what answers carry."""
    assert calibrate.calibrate(model, labelled, model.parent / "2", 0.8).conformal is not None
    opened = ModelFile.open(model.parent / "2" / "model.onnx")
    below = opened.recipe.calibration.abstention.below
    sure, unsure = np.array([0.98, 0.01, 0.01], np.float32), np.array([below - 0.01, 0, 0], np.float32)
    unsure[1:] = (1 - unsure[0]) / 2
    asked = check(Options(coverage=0.9), opened, "eye")
    assert say(sure, asked, opened).abstained is False
    assert say(unsure, asked, opened).abstained is True
    assert [each.label for each in say(sure, asked, opened).prediction_set] == ["red"]
    with pytest.raises(BadOption, match=r"coverage is 0.3; expected a number from 0.5 to 0.99"):
        check(Options(coverage=0.3), opened, "eye")
    bare = ModelFile.open(model / "model.onnx")
    with pytest.raises(BadOption, match="it was never calibrated"):
        check(Options(coverage=0.9), bare, "eye")
    assert say(sure, check(Options(), bare, "eye"), bare).abstained is None


def test_a_data_set_of_other_classes_is_refused(model, tmp_path, monkeypatch):
    """Accuracy on classes that the model doesn't know would be 0, and calibration nonsense."""
    for colour in ("red", "purple"):
        (tmp_path / "other" / colour).mkdir(parents=True)
        for number in range(40):
            Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "other" / colour / f"{number}.png")
    monkeypatch.setattr(calibrate, "LEAST", 5)
    with pytest.raises(Refusal, match="1 classes that eye doesn't know, as 'purple'"):
        calibrate.calibrate(model, tmp_path / "other", model.parent / "2")


def test_too_few_pictures_are_refused(model, labelled, monkeypatch):
    """Three pictures calibrate nothing."""
    monkeypatch.setattr(calibrate, "LEAST", 1000)
    with pytest.raises(Refusal, match="75 pictures to fit on and 180 to measure on; expected 1000 of each"):
        calibrate.calibrate(model, labelled, model.parent / "2")
