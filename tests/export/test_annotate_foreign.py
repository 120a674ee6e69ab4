"""`annotate` on graphs that `convert` didn't make: other people's networks, as other people export them.

Small versions of known designs, with random weights, written by `torch.onnx.export` alone in its several forms, and held
against PyTorch's own answers along the service's path: encoded picture, recipe, engine.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from export import drawings, verify
from export.__main__ import main
from service import images
from service.engine import Engine
from service.modelfile import ModelFile

CLASSES = 7
SIDE = 32


class Fire(nn.Module):
    """Squeeze to few maps, expand in two ways, set side by side."""

    def __init__(self, inputs, few, many):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, few, 1)
        self.one, self.three = nn.Conv2d(few, many, 1), nn.Conv2d(few, many, 3, padding=1)

    def forward(self, maps):
        few = torch.relu(self.squeeze(maps))
        return torch.cat([torch.relu(self.one(few)), torch.relu(self.three(few))], 1)


class Squeeze(nn.Module):
    """SqueezeNet: no fully connected layer; ends in global average pooling, (N, classes, 1, 1), as in the model zoo."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(16, 4, 8), Fire(16, 4, 8), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(16, 6, 12),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(24, CLASSES, 1), nn.AdaptiveAvgPool2d(1))

    def forward(self, pixels):
        return self.classifier(self.features(pixels))


def _norm_conv(inputs, outputs, kernel=3, stride=1, groups=1, act=nn.ReLU6):
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), act())


class Inverted(nn.Module):
    """Widen, filter each map alone, narrow without ReLU; and the way around."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        wide = inputs * 4
        self.way = nn.Sequential(
            _norm_conv(inputs, wide, 1), _norm_conv(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.around = stride == 1 and inputs == outputs

    def forward(self, maps):
        return maps + self.way(maps) if self.around else self.way(maps)


class Mobile(nn.Module):
    """MobileNetV2: depthwise convolutions, ReLU6, mean over the maps; softmax inside."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            _norm_conv(3, 8, 3, 2), Inverted(8, 8, 1), Inverted(8, 12, 2), Inverted(12, 12, 1), _norm_conv(12, 32, 1)
        )
        self.last = nn.Linear(32, CLASSES)

    def forward(self, pixels):
        return self.last(self.features(pixels).mean([2, 3])).softmax(1)


class Basic(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.one, self.two = _norm_conv(inputs, outputs, 3, stride, act=nn.ReLU), _norm_conv(outputs, outputs, act=nn.Identity)
        self.short = _norm_conv(inputs, outputs, 1, stride, act=nn.Identity) if stride > 1 else nn.Identity()

    def forward(self, maps):
        return torch.relu(self.two(self.one(maps)) + self.short(maps))


class Residual(nn.Module):
    """ResNet: shortcuts, batch normalisation that the exporter is told to leave alone; logits."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(_norm_conv(3, 8, 7, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1))
        self.body = nn.Sequential(Basic(8, 8, 1), Basic(8, 16, 2))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(16, CLASSES)

    def forward(self, pixels):
        return self.fc(torch.flatten(self.pool(self.body(self.stem(pixels))), 1))


class ChannelsLast(nn.Module):
    """As TensorFlow's networks come: (N, height, width, 3) on -1 to 1, uneven padding, softmax and then a reshape."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 12, 3, 2), nn.Conv2d(12, 16, 3, 2)
        self.last = nn.Linear(16, CLASSES)

    def forward(self, pixels):
        maps = nn.functional.pad(pixels.permute(0, 3, 1, 2), (0, 1, 0, 1))
        maps = nn.functional.silu(self.one(maps))
        maps = nn.functional.hardswish(self.two(nn.functional.pad(maps, (0, 1, 0, 1))))
        scores = self.last(maps.permute(0, 2, 3, 1).mean((1, 2)))
        return scores.softmax(-1).reshape(-1, CLASSES)


class Shuffle(nn.Module):
    """ShuffleNet: maps change places by way of five axes; the size of the batch is written into the reshapes."""

    def __init__(self):
        super().__init__()
        self.stem = _norm_conv(3, 12, 3, 2, act=nn.ReLU)
        self.one, self.two = _norm_conv(12, 12, 1, groups=3), _norm_conv(12, 12, 3, 2, groups=12, act=nn.Identity)
        self.last = nn.Linear(12 * 8 * 8, CLASSES)

    def forward(self, pixels):
        maps = self.one(self.stem(pixels))
        n, channels, height, width = maps.shape
        maps = maps.view(n, 3, channels // 3, height, width).transpose(1, 2).reshape(n, channels, height, width)
        maps = self.two(maps)
        return self.last(maps.view(maps.size(0), -1))


class Inception(nn.Module):
    """GoogLeNet: branches of several widths, local response normalisation as ten nodes, and a second head to train by."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 5, 2, 2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2))
        self.branches = nn.ModuleList(nn.Conv2d(12, 6, size, padding=size // 2) for size in (1, 3, 5))
        self.pooled = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(12, 6, 1))
        self.aux, self.last = nn.Linear(12, CLASSES), nn.Linear(24, CLASSES)

    def forward(self, pixels):
        maps = self.stem(pixels)
        wide = torch.relu(torch.cat([*(branch(maps) for branch in self.branches), self.pooled(maps)], 1))
        return self.last(wide.mean((2, 3))).log_softmax(1), self.aux(maps.mean((2, 3)))


class Attending(nn.Module):
    """A vision transformer: patches, a token of its own that is repeated for each picture, attention."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 17, 16))
        self.first, self.second, self.mix = nn.LayerNorm(16), nn.LayerNorm(16), nn.Linear(16, 48)
        self.wide, self.narrow, self.last = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, CLASSES)

    def forward(self, pixels):
        parts = self.patches(pixels).flatten(2).transpose(1, 2)  # (N, 16, 16)
        n, count, width = parts.shape
        parts = torch.cat([self.token.expand(n, -1, -1), parts], 1) + self.places
        q, k, v = self.mix(self.first(parts)).reshape(n, count + 1, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        heads = (q @ k.transpose(-2, -1) / 8**0.5).softmax(-1) @ v
        parts = parts + heads.transpose(1, 2).reshape(n, count + 1, width)
        parts = parts + self.narrow(nn.functional.gelu(self.wide(self.second(parts))))
        return self.last(parts[:, 0])


class Squeezed(nn.Module):
    """`squeeze()` over everything, which takes the axis of a lone picture along: (classes,)."""

    def __init__(self):
        super().__init__()
        self.maps, self.last = nn.Sequential(_norm_conv(3, 12, 3, 4), nn.AdaptiveAvgPool2d(1)), nn.Linear(12, CLASSES)

    def forward(self, pixels):
        return self.last(self.maps(pixels).squeeze())


class SqueezedSoftmax(Squeezed):
    """And softmax over what is left."""

    def forward(self, pixels):
        return super().forward(pixels).softmax(-1)


@dataclass(frozen=True)
class Case:
    """A foreign graph: what it is, how it was exported, what its user tells `annotate`."""

    network: type[nn.Module]
    options: tuple[str, ...] = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
    mean: Any = (0.485, 0.456, 0.406)  # in the order of the pixels
    std: Any = (0.229, 0.224, 0.225)
    scale: float = 255
    batch: int | None = None  # None: any
    size_open: bool = False
    last: bool = False
    bgr: bool = False
    opset: int = 17
    probabilities: bool = False
    exporter: tuple[tuple[str, Any], ...] = ()


RAW = ("--range", "0-255", "--mean", "123.68,116.78,103.94", "--std", "1", "--channels", "bgr", "--resize-mode", "exact_size")
CASES = {
    "SqueezeNet, opset 9": Case(Squeeze, opset=9),
    "MobileNetV2, ends in softmax": Case(Mobile, probabilities=True),
    "ResNet, nothing folded": Case(Residual, exporter=(
        ("do_constant_folding", False), ("training", torch.onnx.TrainingMode.PRESERVE), ("keep_initializers_as_inputs", True),
    )),
    "ResNet, batch of 4 fixed, size open": Case(
        Residual, (*Case.options, "--size", str(SIDE)), batch=4, size_open=True, opset=13
    ),
    "channels last": Case(
        ChannelsLast, ("--range", "0-255", "--mean", "127.5", "--std", "127.5"), 127.5, 127.5, 1, last=True, probabilities=True
    ),
    "ShuffleNet, batch of 1 fixed, blue first": Case(
        Shuffle, (*RAW, "--resize", "40"), (123.68, 116.78, 103.94), 1, 1, batch=1, bgr=True
    ),
    "GoogLeNet, two heads, log softmax": Case(Inception, (*Case.options, "--head", "main"), opset=11),
    "squeezed, batch of 1 fixed": Case(Squeezed, batch=1),
    "squeezed, softmax, batch of 1 fixed": Case(SqueezedSoftmax, batch=1, probabilities=True),
    "vision transformer": Case(Attending),
    "vision transformer, batch of 1 fixed": Case(Attending, batch=1),
    "vision transformer, batch of 3 fixed": Case(Attending, batch=3),
}  # fmt: skip


def made(kind):
    """A network whose statistics and answers are no longer those of the first minute."""
    torch.manual_seed(5)
    network = kind()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)  # PyTorch's own fade from layer to layer
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.3, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.3)
    return network.eval().requires_grad_(False)


def write(network, case, file):
    """`torch.onnx.export` as their authors call it."""
    shape = (case.batch or 2, SIDE, SIDE, 3) if case.last else (case.batch or 2, 3, SIDE, SIDE)
    axes = {} if case.batch else {0: "N"}
    axes |= {2: "h", 3: "w"} if case.size_open else {}
    outputs = ["main", "aux"] if case.network is Inception else ["out"]
    dynamic = {"in": axes, **({} if case.batch else {name: {0: "N"} for name in outputs})}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.zeros(shape),), file, dynamo=False, opset_version=case.opset, input_names=["in"],
            output_names=outputs, dynamic_axes={name: there for name, there in dynamic.items() if there}, **dict(case.exporter),
        )  # fmt: skip


def torchs(network, case, pixels):
    """(N, height, width, 3) uint8 → (logits or None, probabilities), by PyTorch alone."""
    values = (pixels.astype(np.float64) / case.scale - case.mean) / case.std
    values = torch.from_numpy(values[..., ::-1].copy() if case.bgr else values).float()
    found = network(values if case.last else values.permute(0, 3, 1, 2).contiguous())
    answer: Tensor = (found[0] if isinstance(found, tuple) else found).flatten(1)
    if case.probabilities:
        return verify.Scores(None, answer.numpy())
    return verify.Scores(answer.numpy(), answer.softmax(1).numpy())


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
def test_other_peoples_graphs_answer_as_torch_does(tmp_path, case):
    """Decision 9, alone and in batches, from encoded pictures on."""
    network, file = made(case.network), tmp_path / "foreign.onnx"
    write(network, case, file)
    (tmp_path / "labels.json").write_text(json.dumps([f"class {number}" for number in range(CLASSES)]))
    result = CliRunner().invoke(main, [
        "annotate", str(file), "--labels", str(tmp_path / "labels.json"), "--output", str(tmp_path / "models" / "m" / "1"),
        *case.options,
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    model = ModelFile.open(tmp_path / "models" / "m" / "1" / "model.onnx")
    assert model.recipe.architecture == "foreign"  # the file's: PyTorch calls every graph main_graph
    how = model.recipe.preprocessing
    pixels = np.stack([images.prepare(png, how, SIDE, SIDE).pixels for png in drawings.draw(9, 60, seed=8)])
    expected, engine = torchs(network, case, pixels), Engine(model, "cpu")
    assert np.ptp(expected.probabilities, axis=0).max() > 0.01, "pictures that all get the same answer prove nothing"
    for size in (1, 2, 4, 9):
        found = np.concatenate([engine.run(pixels[start : start + size]) for start in range(0, len(pixels), size)])
        verify.compare(_shifted(expected, found), verify.Scores(np.log(found), found), "fp32", f"PyTorch and batches of {size}")


def _shifted(expected, found):
    """Softmax forgets a constant: it is taken from the logits before they are compared."""
    if expected.logits is None:
        return expected
    shift = (np.log(found) - expected.logits).mean(axis=1, keepdims=True)
    return verify.Scores(expected.logits + shift, expected.probabilities)


def test_the_forms_are_as_foreign_as_they_claim(tmp_path):
    """An exporter that one day folds, or frees the batch, would leave the tests above with less to prove."""
    kinds = {}
    for name, case in CASES.items():
        write(made(case.network), case, tmp_path / "x.onnx")
        kinds[name] = onnx.load(tmp_path / "x.onnx").graph
    operators = {name: {node.op_type for node in graph.node} for name, graph in kinds.items()}
    assert "BatchNormalization" in operators["ResNet, nothing folded"]
    assert len(kinds["ResNet, nothing folded"].input) > 1  # initialisers, listed among the inputs
    assert "Clip" in operators["MobileNetV2, ends in softmax"]
    assert len(kinds["SqueezeNet, opset 9"].output[0].type.tensor_type.shape.dim) == 4
    assert kinds["channels last"].node[-1].op_type == "Reshape"
    assert kinds["ShuffleNet, batch of 1 fixed, blue first"].input[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert len(kinds["squeezed, batch of 1 fixed"].output[0].type.tensor_type.shape.dim) == 1
    assert len(kinds["GoogLeNet, two heads, log softmax"].output) == 2


def test_the_layer_table_of_a_foreign_graph_is_whole(tmp_path):
    """Sizes of padding that the exporter leaves to be worked out would hide every shape behind them."""
    case = CASES["channels last"]
    write(made(case.network), case, tmp_path / "foreign.onnx")
    (tmp_path / "labels.txt").write_text("\n".join("abcdefg"))
    arguments = ["--labels", str(tmp_path / "labels.txt"), "--output", str(tmp_path / "m" / "1"), *case.options]
    assert CliRunner().invoke(main, ["annotate", str(tmp_path / "foreign.onnx"), *arguments]).exit_code == 0
    found = json.loads(CliRunner().invoke(main, ["describe", str(tmp_path / "m" / "1"), "--json"]).output)
    assert found["layers"][0]["output"] == [SIDE, SIDE, 3]
    rows = {row["name"]: row for row in found["layers"]}
    assert (rows["one"]["output"], rows["two"]["output"]) == ([16, 16, 12], [8, 8, 16])
    assert found["multiply_adds"] == 16 * 16 * 12 * 27 + 8 * 8 * 16 * 12 * 9 + 16 * CLASSES
    assert found["parameters"] == 12 * 28 + 16 * (12 * 9 + 1) + 17 * CLASSES
