"""`--architecture path/to/file.py:factory`: any torch module on the way in, or one line that says why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from export import architectures, precision
from export.__main__ import main
from service.engine import Engine
from service.modelfile import ModelFile

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
CODE = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn
from export.architectures import Architecture
from beside import WIDTH


@dataclass
class Shape:
    width: int = WIDTH


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.norm = nn.BatchNorm2d(Shape().width)  # not in a Sequential, nor in the order in which it runs
        self.first = nn.Conv2d(3, Shape().width, 3, stride=2, bias=False)
        self.last = nn.Linear(Shape().width, classes)

    def forward(self, pixels):
        maps = torch.relu(self.norm(self.first(pixels)))
        return self.last(maps.mean((2, 3)))


def five():
    return Net(5)

def by_name(pretrained=False, *, num_classes=1000):
    assert not pretrained
    return Net(num_classes)

def designed(classes):
    return Architecture("mine", Net, side=32, resize=40, classes=5, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))

class Backwards(nn.Sequential):
    def forward(self, pixels):
        for layer in (*list(self)[::-1], lambda maps: maps.mean((2, 3))):
            pixels = layer(pixels)
        return pixels

def backwards(classes):  # batch normalisation stands behind a convolution, and runs before it
    return Backwards(nn.Conv2d(3, classes, 3), nn.BatchNorm2d(3))

class Pair(Net):
    def forward(self, pixels):
        return super().forward(pixels), pixels

class Maps(Net):
    def forward(self, pixels):
        return self.first(pixels)

class Lost(Net):
    def forward(self, pixels):
        return self.nowhere(pixels)

def failing(classes):
    raise KeyError("weights of mine")

def two(classes, width):
    return Net(classes)

def nothing(classes):
    pass

ready = Net(5)
number = 7
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A file with networks in it, and one beside it that it imports; labels and a place for the model."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "net.py").write_text(CODE)
    (tmp_path / "code" / "beside.py").write_text("WIDTH = 6\n")
    (tmp_path / "code" / "broken.py").write_text("def net(:\n")
    (tmp_path / "labels.json").write_text(json.dumps(list("abcde")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(factory, place):
    """A network with weights as after training, which are written to `weights.pth`."""
    torch.manual_seed(3)
    network = architectures.find(f"code/net.py:{factory}").build(5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
    torch.save(network.state_dict(), place / "weights.pth")
    return network.eval()


def convert(factory, *options):
    """As a user types it."""
    return CliRunner().invoke(main, [
        "convert", "--architecture", factory, "--weights", "weights.pth", "--labels", "labels.json",
        "--output", "models/own/1", *options,
    ])  # fmt: skip


def opened(result):
    """The model that the service opens."""
    assert result.exit_code == 0, result.output
    return ModelFile.open(Path("models/own/1/model.onnx"))


def answers(network, pixels, mean=MEAN, std=STD):
    values = ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
    with torch.inference_mode():
        return network(values).softmax(1).numpy()


@pytest.mark.parametrize("factory", ["Net", "five", "by_name", "backwards"])
def test_a_network_of_ones_own_is_served_as_torch_has_it(own, factory):
    """A class, a function without arguments, one with the number of classes by name, layers out of their order."""
    network = trained(factory, own)
    model = opened(convert(f"code/net.py:{factory}"))
    assert (model.recipe.architecture, model.recipe.input.width) == (f"net.py:{factory}", 224)
    assert (model.recipe.preprocessing.resize, model.recipe.preprocessing.mean[0]) == (256, 0.485)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)
    assert np.abs(Engine(model, "cpu").run(pixels) - answers(network, pixels)).max() <= 1e-5


def test_the_command_line_decides_the_input(own):
    """Another size brings its own resize along, so that the crop keeps seven eighths of the picture."""
    network = trained("Net", own)
    model = opened(convert("code/net.py:Net", "--size", "56", "--mean", "0.5", "--std", "0.5"))
    assert (model.recipe.input.width, model.recipe.preprocessing.resize) == (56, 64)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 56, 56, 3), np.uint8)
    assert np.abs(Engine(model, "cpu").run(pixels) - answers(network, pixels, 0.5, 0.5)).max() <= 1e-5


def test_a_factory_may_say_what_its_network_expects(own):
    """An Architecture instead of a module."""
    trained("Net", own)
    model = opened(convert("code/net.py:designed"))
    assert (model.recipe.architecture, model.recipe.input.width) == ("net.py:designed", 32)
    assert (model.recipe.preprocessing.resize, model.recipe.preprocessing.std) == (40, (0.25, 0.25, 0.25))


def test_the_file_that_was_run_is_on_record(own):
    """Weights without their network are numbers."""
    trained("Net", own)
    record = opened(convert("code/net.py:Net")).recipe.provenance["network"]
    assert (record["file"], len(record["sha256"])) == ("net.py", 64)


@pytest.mark.parametrize(("name", "message"), [
    pytest.param("code/absent.py:net", "code/absent.py is not there; expected a Python file", id="no file"),
    pytest.param("code:net", "code is not there; expected a Python file", id="a folder"),
    pytest.param("code/net.py", "names no factory; expected path/to/file.py:factory", id="no factory named"),
    pytest.param("code/net.py:", "names no factory; expected path/to/file.py:factory", id="colon only"),
    pytest.param("code/net.py:resnet", "'resnet' is not there; expected a function", id="no such factory"),
    pytest.param("code/net.py:number", "'number' is a value of type int; expected a function", id="no function"),
    pytest.param("code/net.py:ready", "'ready' is a value of type Net; expected a function", id="a module, not its factory"),
    pytest.param("labels.json:net", "labels.json is no Python file", id="no Python"),
    pytest.param("code/broken.py:net", "code/broken.py can't be run: SyntaxError: ", id="syntax"),
    pytest.param("code/net.py:failing", "failing(classes=1000) fails: KeyError: 'weights of mine'", id="factory raises"),
    pytest.param("code/net.py:two", "two(classes=1000) fails: TypeError: two() missing 1", id="wants more"),
    pytest.param("code/net.py:nothing", "nothing returned None; expected an nn.Module or an Architecture", id="nothing"),
    pytest.param("code/net.py:dataclass", "dataclass(1000) fails: AttributeError", id="something else that can be called"),
    pytest.param("code/net.py:Pair", "net.py:Pair answers a batch of 1 with tuple; expected a tensor of logits", id="a pair"),
    pytest.param("code/net.py:Maps", "answers a batch of 1 with (1, 6, 111, 111); expected", id="maps"),
    pytest.param("code/net.py:Lost", "can't take pictures of 224 × 224 ('Lost' object has no attribute", id="forward fails"),
])  # fmt: skip
def test_what_gives_no_network_is_refused_in_one_line(own, name, message):
    """Found and expected, exit 2, nothing written."""
    trained("Net", own)
    result = convert(name)
    assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output
    assert message in result.output
    assert not (own / "models").exists()


def test_a_network_of_ones_own_is_trained_and_then_converted(own, monkeypatch):
    """The same name for both commands."""
    monkeypatch.setattr(precision, "bfloat16_pays", lambda *_: False)
    random = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 180)):
        (own / "data" / name).mkdir(parents=True)
        for number in range(24):
            pixels = random.integers(level - 50, level + 50, (40, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(own / "data" / name / f"{number}.png")
    result = CliRunner().invoke(main, [
        "train", "--data", "data", "--output", "run", "--architecture", "code/net.py:designed", "--schedule", "32x6",
        "--batch", "12",
    ], catch_exceptions=False)  # fmt: skip
    assert result.exit_code == 0, result.output
    model = opened(CliRunner().invoke(main, [
        "convert", "--architecture", "code/net.py:designed", "--weights", "run/weights.pth",
        "--labels", "run/labels.json", "--provenance", "run/run.json", "--output", "models/own/1",
    ]))  # fmt: skip
    assert [label.label for label in model.labels] == ["dark", "light"]
    pixels = np.stack([np.full((32, 32, 3), level, np.uint8) for level in (60, 180)])
    assert Engine(model, "cpu").run(pixels).argmax(1).tolist() == [0, 1]
