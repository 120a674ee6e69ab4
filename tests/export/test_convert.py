"""From weights to a model that the service opens, and nothing at all where that fails."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from export import convert, graph, package, verify
from export.__main__ import main
from export.options import command_line
from service import images, shelf
from service.engine import Engine
from service.modelfile import ModelFile
from service.settings import Settings
from tests import models

MODELS = Path(__file__).parents[2] / "models"
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def run(*arguments):
    """The command line, as a user types it."""
    return CliRunner().invoke(main, ["convert", *map(str, arguments)])


def test_a_converted_model_answers_as_the_network_did(files, network):
    """The whole way: state dict, file, service; against PyTorch with the textbook's normalisation."""
    result = run(*files.arguments, "--temperature", "1.7", "--description", "five fish")
    assert (result.exit_code, "verified" in result.output) == (0, True), result.output
    model = ModelFile.open(files.models / "fish" / "1" / "model.onnx")
    assert (model.recipe.name, model.recipe.temperature, model.recipe.architecture) == ("fish", 1.7, "tiny")
    assert [label.label for label in model.labels][:2] == ["tench", "goldfish"]
    assert len(model.golden) == 4
    pixels = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), np.uint8)
    with torch.inference_mode():
        logits = network(((torch.from_numpy(pixels).float() / 255 - MEAN) / STD).permute(0, 3, 1, 2))
    expected = torch.softmax(logits / 1.7, 1).numpy()
    assert np.abs(Engine(model, "cpu").run(pixels) - expected).max() <= 1e-5


def test_the_graph_is_clean(files):
    """uint8 in, probabilities out, a batch of any size, and no batch normalisation or dropout left to compute."""
    assert run(*files.arguments).exit_code == 0
    model = onnx.load(files.models / "fish" / "1" / "model.onnx")
    assert [node.op_type for node in model.graph.node] == [
        "Transpose",
        "Cast",
        "Sub",
        "Mul",
        "Conv",
        "Relu",
        "MaxPool",
        "Flatten",
        "Gemm",
        "Relu",
        "Gemm",
        "Softmax",
    ]
    (source,), (target,) = model.graph.input, model.graph.output
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in (source, target)
    ]
    assert (source.name, target.name, shapes) == ("pixels", "probabilities", [["batch", 16, 16, 3], ["batch", 5]])


def test_large_weights_lie_beside_the_model(files, monkeypatch):
    """Protobuf ends at 2 GiB, and a file of its own can be mapped by all workers at once."""
    monkeypatch.setattr(graph, "EXTERNAL_FROM", 1)
    assert run(*files.arguments).exit_code == 0
    folder = files.models / "fish" / "1"
    assert sorted(file.name for file in folder.iterdir()) == ["model.onnx", "weights.bin"]
    model = ModelFile.open(folder / "model.onnx")
    assert model.external
    Engine(model, "cpu").prove(model.golden)
    moved = files.models / "moved"
    folder.rename(moved)
    assert ModelFile.open(moved / "model.onnx").weights_sha256 == model.weights_sha256


def test_the_written_file_is_the_same_every_time(files, tmp_path):
    """A digest means something only if the same weights give the same bytes."""
    outputs = [tmp_path / place / "fish" / "1" for place in ("a", "b")]
    for output in outputs:
        convert.convert("tiny", files.weights, files.labels, package.Wishes(output))
    first, second = ((output / "model.onnx").read_bytes() for output in outputs)
    assert first == second


def test_provenance_and_its_temperature_travel_along(files, tmp_path):
    """train's run.json holds both; who forgets --temperature gets the calibrated one."""
    record = tmp_path / "run.json"
    record.write_text(json.dumps({"temperature": 1.25, "command": "python -m export train"}))
    assert run(*files.arguments, "--provenance", record).exit_code == 0
    recipe = ModelFile.open(files.models / "fish" / "1" / "model.onnx").recipe
    assert recipe.temperature == 1.25
    assert recipe.provenance["command"] == "python -m export train"
    assert recipe.provenance["verified"]["pictures"] == package.DRAWN
    assert len(recipe.provenance["weights"]["sha256"]) == 64


def test_real_pictures_are_verified_along_the_services_own_path(files, tmp_path):
    """Drawn pictures are easy; photos are what comes."""
    from export import drawings

    photos = tmp_path / "photos"
    photos.mkdir()
    for number, png in enumerate(drawings.draw(3, 20, seed=9)):
        (photos / f"{number}.png").write_bytes(png)
    result = run(*files.arguments, "--verify", photos)
    assert f"{package.DRAWN + 3} pictures" in result.output


def test_the_default_model_stays_what_it_was(files):
    """A plain `make run` must answer with the same model after `convert`, whatever the new one's name sorts before."""
    models.build(files.models / "zebra" / "1" / "model.onnx")
    models.choose(files.models, "zebra")
    settings = Settings(models=files.models)
    before = shelf.check(settings)
    assert run(*files.arguments).exit_code == 0
    assert shelf.check(settings) == before == ("zebra", f"set by {files.models / 'default'}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"--architecture": "resnet"},
            "architecture 'resnet' is not known; expected one of alexnet",
            id="unknown network",
        ),
        pytest.param({"--weights": "absent.pth"}, "absent.pth can't be read", id="no weights"),
        pytest.param({"--labels": "absent.txt"}, "absent.txt can't be read", id="no labels"),
        pytest.param({"--labels": "four.txt"}, "has 5 classes; the labels file has 4", id="label count"),
        pytest.param({"--output": "models/fish/best"}, "VERSION a whole number", id="no version"),
        pytest.param({"--output": "models/fish/0"}, "VERSION a whole number", id="a version that is never served"),
        pytest.param({"--output": "taken/1"}, "exists already", id="taken"),
        pytest.param({"--name": "no spaces please"}, "quadrant.recipe", id="name"),
        pytest.param({"--resize": "8"}, "expected at least 16", id="resize under the input"),
        pytest.param({"--std": "0"}, "expected both above 0", id="std"),
        pytest.param({"--size": "4"}, "can't take pictures of 4 × 4", id="size too small"),
        pytest.param({"--provenance": "four.txt"}, "is not JSON", id="provenance is no JSON"),
        pytest.param({"--provenance": "list.json"}, "holds a list; expected a JSON object", id="provenance is a list"),
        pytest.param({"--verify": "empty"}, "holds no pictures", id="no pictures"),
        pytest.param({"--verify": "broken"}, "can't be used", id="pictures that are none"),
    ],
)
def test_what_cannot_be_converted_is_refused_in_one_line(files, tmp_path, monkeypatch, change, message):
    """Exit 2, found and expected in one line, and not even a folder left behind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "four.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "list.json").write_text("[]")
    for folder in ("taken/1", "empty", "broken"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "broken" / "a.png").write_text("no picture")
    before = sorted(tmp_path.rglob("*"))
    options = dict(zip(files.arguments[::2], files.arguments[1::2], strict=True)) | change
    result = run(*(part for pair in options.items() for part in pair))
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert result.output.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_that_differs_from_its_network_is_not_written(files, tmp_path, monkeypatch):
    """The exporter is not trusted: here it changes one weight, as a bug of its would."""
    honest = convert.to_onnx

    def wrong(*arguments):
        model = honest(*arguments)
        weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
        values = onnx.numpy_helper.to_array(weight).copy()
        values += 0.001
        weight.raw_data = values.tobytes()
        return model

    monkeypatch.setattr(convert, "to_onnx", wrong)
    result = run(*files.arguments)
    assert result.exit_code == 2
    assert "differ by" in result.output
    assert not files.models.exists()


def test_a_full_disk_leaves_nothing_behind(files, monkeypatch):
    """Half a model would be found, and refused, at the next start."""

    def full(*_):
        raise OSError(28, "No space left on device", "model.onnx")

    monkeypatch.setattr(package, "_prove", full)
    result = run(*files.arguments)
    assert (result.exit_code, result.output) == (2, "Error: model.onnx: No space left on device\n")
    assert not files.models.exists()


def test_golden_pictures_go_the_services_way(files):
    """They are larger than the input, so that a wrong resize or crop is noticed too."""
    assert run(*files.arguments).exit_code == 0
    model = ModelFile.open(files.models / "fish" / "1" / "model.onnx")
    for golden in model.golden:
        header = images.inspect(golden.png)
        assert min(header.width, header.height) >= model.recipe.preprocessing.resize


def test_softmax_survives_large_logits():
    """exp(1000) is infinite; the reference must not be."""
    found = verify.softmax(np.asarray([[1000, 0, -1000]], np.float32), 1)
    assert found.tolist() == [[1, 0, 0]]


def test_the_record_does_not_say_where_somebody_lives(monkeypatch):
    """A model is handed on; the paths of the machine that made it mean nothing elsewhere."""
    monkeypatch.setattr(sys, "argv", ["x", "convert", "--weights", "/home/ada/net.pth", "--output", "models/net/1"])
    assert command_line() == "python -m export convert --weights net.pth --output models/net/1"


@pytest.mark.parametrize("file", sorted(MODELS.glob("*/*/model.onnx")), ids=lambda file: file.parent.parent.name)
def test_published_models_hold_no_paths_of_a_machine(file):
    """Nor do ours."""
    recipe = ModelFile.open(file).recipe.dump()
    assert not re.search(r"[\s\"'](?:/[A-Za-z0-9_.-]+){2,}", recipe)
