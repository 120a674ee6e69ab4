"""fp16: half the bytes, the same answers within the rule, on a processor too; and refused where a GPU's rounding breaks it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export import graph, half, package, published, verify
from export.__main__ import main
from service.engine import Engine
from service.modelfile import ModelFile

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
RULE = 2e-3  # on probabilities


def run(*arguments):
    """The command line, as a user types it."""
    return CliRunner().invoke(main, list(map(str, arguments)))


def pixels(count=7, side=16):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def answers(network, batch):
    """By PyTorch, with the textbook's normalisation."""
    with torch.inference_mode():
        logits = network(((torch.from_numpy(batch).float() / 255 - MEAN) / STD).permute(0, 3, 1, 2))
    return torch.softmax(logits, 1).numpy()


def types(model: ModelProto) -> dict[str, int]:
    """The element type of every tensor, as ONNX infers it."""
    shaped = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    found = {value.name: value.type.tensor_type.elem_type
             for value in (*shaped.graph.input, *shaped.graph.value_info, *shaped.graph.output)}  # fmt: skip
    return found | {tensor.name: tensor.data_type for tensor in shaped.graph.initializer}


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
    engine = Engine(opened, "cpu", 1)
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
    layers = [node for node in model.graph.node if not node.name.startswith(graph.ADDED)]
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
    assert np.abs(Engine(second, "cpu", 1).run(pixels()) - Engine(first, "cpu", 1).run(pixels())).max() <= RULE
    large = [sum(len(tensor.raw_data) for tensor in onnx.load(file).graph.initializer if tensor.data_type in (1, 10)
                 and not tensor.name.startswith(graph.ADDED)) for file in (before, output / "model.onnx")]  # fmt: skip
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
    assert Engine(opened, "cpu", 1).prove() <= RULE


def test_what_overflows_on_a_gpu_is_refused_here(files, network):
    """65,504 is the largest number in fp16. This processor's runtime, which computes in float32, would not notice."""
    with torch.no_grad():  # larger maps, and weights behind them that undo it in two steps: each fits in fp16
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
    result = run("convert", *files.arguments[:-1], files.models / "fish-fp16" / "1", "--precision", "fp16")
    assert result.exit_code == 2
    assert result.output.startswith("Error: with each layer's output rounded to float16, as a GPU does it: ")
    assert result.output.count("\n") == 1
    assert not (files.models / "fish-fp16").exists()


def unusual() -> ModelProto:
    """Layers that can't be in fp16, or only in part, between those that can; weights that both kinds need."""
    random = np.random.default_rng(5)
    weights = {
        "w": random.normal(0, 0.3, (4, 3, 3, 3)), "b": random.normal(0, 1, 4), "v": random.normal(0, 0.3, (16, 5)),
        "low": np.asarray(-3.4e38), "high": np.asarray(6.0), "scales": np.asarray([1, 1, 0.5, 0.5]), "two": np.asarray(2.0),
    }  # fmt: skip
    here = helper.make_tensor_value_info("picked", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Mul", ["clipped", "two"], ["picked"])], "yes", [], [here])
    other = helper.make_graph([helper.make_node("Identity", ["clipped"], ["picked"])], "no", [], [here])
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["turned"], "quadrant/layout", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["turned"], ["float"], "quadrant/cast", to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "quadrant/255"], ["scaled"], "quadrant/std"),
        helper.make_node("Conv", ["scaled", "w", "b"], ["maps"], "conv"),
        helper.make_node("LRN", ["maps"], ["normal"], "lrn", size=3),
        helper.make_node("Clip", ["normal", "low", "high"], ["clipped"], "clip"),
        helper.make_node("If", ["quadrant/yes"], ["chosen"], "if", then_branch=branch, else_branch=other),
        helper.make_node("Pow", ["chosen", "two"], ["squared"], "pow"),
        helper.make_node("Add", ["squared", "two"], ["added"], "add"),
        helper.make_node("Resize", ["added", "", "scales"], ["small"], "resize", mode="nearest"),
        helper.make_node("AveragePool", ["small"], ["pooled"], "pool", kernel_shape=[3, 3], strides=[3, 3]),
        helper.make_node("Shape", ["pooled"], ["all"], "shape"),
        helper.make_node("Gather", ["all", "quadrant/zero"], ["first"], "first"),
        helper.make_node("Concat", ["first", "quadrant/rest"], ["flatter"], "concat", axis=0),
        helper.make_node("Reshape", ["pooled", "flatter"], ["flat"], "flat"),
        helper.make_node("MatMul", ["flat", "v"], ["scores"], "scores"),
        helper.make_node("Softmax", ["scores"], ["probabilities"], "quadrant/softmax", axis=1),
    ]
    stored = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    stored += [numpy_helper.from_array(value, name) for name, value in {
        "quadrant/255": np.asarray(255, np.float32), "quadrant/yes": np.asarray(True), "quadrant/zero": np.asarray([0], np.int64),
        "quadrant/rest": np.asarray([16], np.int64)}.items()]  # fmt: skip
    source = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 16, 16, 3])
    target = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 5])
    made = helper.make_graph(nodes, "unusual", [source], [target], stored)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def ask(model: ModelProto) -> verify.Scores:
    with tempfile.TemporaryDirectory() as place:
        return package.candidate(model, "scores", Path(place))(pixels())


@pytest.mark.parametrize("rounded", [False, True])
def test_layers_that_cannot_be_halved_are_cast_around(rounded):
    """Nothing that ONNX or a processor lacks in fp16 may keep a model from loading, nor change its answers."""
    model, small = unusual(), half.halve(unusual(), rounded)
    onnx.checker.check_model(small, full_check=True)
    before, after = ask(model), ask(small)
    assert 0 < np.abs(before.logits - after.logits).max() < 4e-3 * max(1, np.abs(before.logits).max())
    assert np.abs(before.probabilities - after.probabilities).max() < RULE


def test_only_what_needs_float_stays_in_float():
    """By the schemas: Resize takes its scales in float32 beside maps in fp16; by choice: what squares."""
    small = half.halve(unusual())
    known, nodes = types(small), {node.name: node for node in small.graph.node}
    kinds = {name: [known.get(each, 0) for each in node.input if each] for name, node in nodes.items() if "/" not in name}
    wide, narrow = TensorProto.FLOAT, TensorProto.FLOAT16
    assert (kinds["conv"], kinds["lrn"], kinds["clip"], kinds["pow"]) == ([narrow] * 3, [wide], [narrow] * 3, [wide] * 2)
    assert (kinds["add"], kinds["resize"], kinds["scores"]) == ([narrow] * 2, [narrow, wide], [narrow] * 2)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in small.graph.initializer}
    assert stored["low"] == -65504  # a bound that means "none" must not become infinite
    assert (stored["two"].dtype, stored["two/half"].dtype) == (np.float32, np.float16)


def test_the_rounded_graph_rounds_every_layer():
    """It stands for the GPU that isn't here: what flows between layers must fit in fp16 exactly."""
    small = half.halve(unusual(), rounded=True)
    assert TensorProto.FLOAT16 not in {tensor.data_type for tensor in small.graph.initializer}
    inner = [name for node in small.graph.node for name in node.output if name.endswith(half.SUFFIX) and types(small)[name] == 1]
    assert {"maps/half", "clipped/half", "pooled/half", "scores/half"} <= set(inner)
    del small.graph.output[:]
    small.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inner)
    for values in verify.session(small.SerializeToString()).run(inner, {"pixels": pixels()}):
        assert (values == values.astype(np.float16)).all()


def test_halving_leaves_the_model_as_it_is():
    """The caller still needs it to compare with."""
    model = unusual()
    half.halve(model)
    assert model.SerializeToString(deterministic=True) == unusual().SerializeToString(deterministic=True)


def test_a_graph_with_nothing_to_halve_is_refused():
    """It would be published as fp16, and be what it was."""
    model = unusual()
    for node in model.graph.node:
        node.name = f"{graph.ADDED}{node.name}"
    with pytest.raises(graph.UnusableModel, match="unusual has nothing that can be computed in float16"):
        half.halve(model)
