"""A model in fp16 keeps the rule on a GPU too, as far as can be told without one; on a processor it loads and answers."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto

from export import graph, half, halving, package, published
from export.__main__ import main
from export.front import ADDED
from service.engine import Engine
from service.modelfile import ModelFile
from tests.export.test_half import RULE, pixels, types

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def run(*arguments):
    """The command line, as a user types it."""
    return CliRunner().invoke(main, list(map(str, arguments)))


def answers(network, batch):
    """By PyTorch, with the textbook's normalisation."""
    with torch.inference_mode():
        logits = network(((torch.from_numpy(batch).float() / 255 - MEAN) / STD).permute(0, 3, 1, 2))
    return torch.softmax(logits, 1).numpy()


@pytest.fixture
def halved(files):
    """A network converted to fp16."""
    output = files.models / "fish-fp16" / "1"
    result = run("convert", *files.arguments[:-1], output, "--precision", "fp16")
    assert (result.exit_code, "verified" in result.output) == (0, True), result.output
    return output / "model.onnx"


def test_a_network_in_fp16_answers_as_it_did(halved, network):
    """The whole way from the state dict; on this processor, which has to cast what it can't compute in fp16."""
    opened = ModelFile.open(halved)
    assert (opened.recipe.name, opened.recipe.precision) == ("fish-fp16", "fp16")
    engine = Engine(opened, "cpu")
    assert engine.prove() <= RULE
    found = engine.run(pixels())
    assert found.dtype == np.float32
    assert np.abs(found - answers(network, pixels())).max() <= RULE
    alone = np.concatenate([engine.run(row[None]) for row in pixels()])
    assert np.abs(alone - found).max() <= RULE
    assert opened.recipe.provenance["halved"]["rounded"]["pictures"] == package.DRAWN


def test_weights_and_layers_are_in_fp16_and_the_ends_in_fp32(halved):
    """uint8 in, normalised in float32, softmax and answer in float32."""
    model = onnx.load(halved)
    known = types(model)
    layers = [node for node in model.graph.node if not node.name.startswith(ADDED)]
    assert [node.op_type for node in layers] == ["Conv", "Relu", "MaxPool", "Flatten", "Gemm", "Relu", "Gemm"]
    assert {known[name] for node in layers for name in (*node.input, *node.output)} == {TensorProto.FLOAT16}
    ours = {node.op_type: known[node.output[0]] for node in model.graph.node if node.op_type in ("Sub", "Mul", "Softmax")}
    assert ours == dict.fromkeys(("Sub", "Mul", "Softmax"), TensorProto.FLOAT)
    assert [known[name] for name in ("pixels", "probabilities")] == [TensorProto.UINT8, TensorProto.FLOAT]
    assert sum(node.op_type == "Cast" for node in model.graph.node) == 3  # the pixels, into the network, out of it


def test_the_layer_table_stays(halved, files):
    """What describes the network doesn't change with its precision."""
    assert run("convert", *files.arguments).exit_code == 0
    assert ModelFile.open(halved).layers == ModelFile.open(files.models / "fish" / "1" / "model.onnx").layers


def test_a_published_model_can_be_halved(files, network):
    """Whatever its weights came from; what was fitted to it stays."""
    assert run("convert", *files.arguments, "--temperature", "1.5", "--description", "five fish").exit_code == 0
    before = files.models / "fish" / "1" / "model.onnx"
    output = files.models / "fish-fp16" / "1"
    result = run("halve", before, "--output", output)
    assert (result.exit_code, "verified" in result.output) == (0, True), result.output
    first, second = ModelFile.open(before), ModelFile.open(output / "model.onnx")
    assert (second.recipe.name, second.recipe.precision, second.recipe.temperature) == ("fish-fp16", "fp16", 1.5)
    assert (second.labels, second.recipe.description) == (first.labels, "five fish")
    assert second.recipe.provenance["halved"]["from"] == first.digest
    assert np.abs(Engine(second, "cpu").run(pixels()) - Engine(first, "cpu").run(pixels())).max() <= RULE
    large = [sum(len(tensor.raw_data) for tensor in onnx.load(file).graph.initializer if tensor.data_type in (1, 10)
                 and not tensor.name.startswith(ADDED)) for file in (before, output / "model.onnx")]  # fmt: skip
    assert large[1] * 2 == large[0]


def test_only_fp32_is_halved(halved):
    """int8 is smaller already, and fp16 can't be halved again."""
    result = run("halve", halved, "--output", halved.parents[2] / "again" / "1")
    assert result.exit_code == 2
    assert result.output.endswith("is fp16 already; expected a model in fp32\n")


def test_large_weights_are_halved_beside_the_model(files, monkeypatch):
    """AlexNet's lie in a file of their own."""
    monkeypatch.setattr(graph, "EXTERNAL_FROM", 1)
    assert run("convert", *files.arguments).exit_code == 0
    output = files.models / "fish-fp16" / "1"
    assert run("halve", files.models / "fish" / "1", "--output", output).exit_code == 0
    opened = ModelFile.open(output / "model.onnx")
    assert opened.external
    assert Engine(opened, "cpu").prove() <= RULE


@pytest.fixture
def overflowing(files, network):
    """Weights of the same network with larger maps, and weights behind them that undo it in two steps: each fits in fp16.

    65,504 is the largest number in it. This processor's runtime, which computes in float32, would not notice.
    """
    with torch.no_grad():
        for without in (network.features[1].bias, network.features[1].running_mean):
            without.zero_()
        for larger, by in ((network.features[1], 2**16), (network.classifier[2], 2**8)):
            larger.weight.mul_(by)
            larger.bias.mul_(by)
        network.classifier[1].weight.mul_(2**-16)
        network.classifier[4].weight.mul_(2**-8)
    torch.save(network.state_dict(), files.weights)
    assert run("convert", *files.arguments).exit_code == 0
    model = published.read(files.models / "fish").model
    with tempfile.TemporaryDirectory() as place:
        before, after = (package.candidate(each, None, Path(place))(pixels()) for each in (model, half.halve(model)))
    assert np.abs(before.probabilities - after.probabilities).max() <= RULE  # as said
    return files


def test_layers_that_overflow_on_a_gpu_stay_in_fp32(overflowing, monkeypatch):
    """Here the one that gives too much, and the one that takes it; the rest is halved, and the recipe says which isn't."""
    monkeypatch.setattr(halving, "MOST_KEPT", 0.7)
    output = overflowing.models / "fish-fp16" / "1"
    result = run("convert", *overflowing.arguments[:-1], output, "--precision", "fp16")
    assert result.exit_code == 0, result.output
    opened = ModelFile.open(output / "model.onnx")
    found = opened.recipe.provenance["halved"]
    assert (found["layers"], sorted(found["in_float32"])) == (3, ["classifier.1", "features.0"])
    assert found["rounded"]["probability"] <= RULE
    assert Engine(opened, "cpu").prove() <= RULE
    stored = {tensor.name: tensor.data_type for tensor in onnx.load(output / "model.onnx").graph.initializer}
    assert (stored["features.0.weight"], stored["classifier.4.weight"]) == (TensorProto.FLOAT, TensorProto.FLOAT16)


def test_what_would_break_the_rule_on_a_gpu_is_refused(overflowing):
    """Where more layers would have to stay than is worth it; nobody should find out on the GPU."""
    result = run("halve", overflowing.models / "fish", "--output", overflowing.models / "fish-fp16" / "1")
    assert result.exit_code == 2
    assert result.output.startswith(
        "Error: with each layer's output rounded to float16, as a GPU does it, and 1 of 3 layers in float32: ")
    assert result.output.count("\n") == 1
    assert not (overflowing.models / "fish-fp16").exists()


def test_the_worst_layer_is_found_first(files, monkeypatch):
    """Each is asked alone: who loses most in fp16 is the first to leave it."""
    assert run("convert", *files.arguments).exit_code == 0
    model = published.read(files.models / "fish").model
    layers = half.layers(model)
    assert list(layers) == ["features.0", "classifier.1", "classifier.4"]
    real = half.halve

    def spoilt(model, rounded=False, kept=()):
        made = real(model, rounded, kept)
        for tensor in made.graph.initializer:  # only this one, and only where it is in fp16
            if tensor.name == "classifier.1.weight" and not set(layers["classifier.1"]) <= set(kept):
                tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) * np.float32(1.01)).tobytes()
        return made

    monkeypatch.setattr(half, "halve", spoilt)
    with tempfile.TemporaryDirectory() as place:
        expected = published.scorer(model, Path(place))(pixels(halving.SOME))
    assert halving._worst_first(model, published.logits(model), layers, expected, pixels(halving.SOME))[0] == "classifier.1"
